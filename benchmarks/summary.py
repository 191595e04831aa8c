# SPDX-License-Identifier: Apache-2.0
"""From the raw rounds of a comparison to records, ratios, a Markdown table and a stacked-bar picture."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contenders import ENTRIES, Setting

from lightwam.bench.figures import Record, Seconds, cpu_name

STAGES = ("preprocess", "vae", "backbone", "expert", "postprocess")
REFERENCES = ("lightwam-f32", "lightwam-bf16")  # whose actions everyone else's are compared with: the first measured


@dataclass(frozen=True)
class Comparison:
    """`ratios`: peer -> ours -> median over the rounds of (peer's time / our time), with the quartiles."""

    setting: Setting
    records: dict[str, Record]
    ratios: dict[str, dict[str, tuple[float, float, float]]]
    idle: dict[str, float]
    left_out: dict[str, str]


def summarise(
    setting: Setting, results: Sequence[Mapping[str, Any]], peaks: Mapping[str, float], left_out: dict[str, str]
) -> Comparison:
    """Pool a contender's rounds over its pairs; ratios are of one pair's rounds. `results`: files of report.py."""
    pooled: dict[str, list[dict[str, Any]]] = defaultdict(list)
    starts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    ratios: dict[str, dict[str, tuple[float, float, float]]] = {}
    for result in results:
        for name, measured in result["results"].items():
            pooled[name] += measured["rounds"]
            starts[name].append(measured)
        peer, *ours = result["group"]
        ratios[peer] = {name: _ratio(result["results"][peer], result["results"][name]) for name in ours}
    answers = {name: _answers(rounds) for name, rounds in pooled.items()}
    records = {
        name: _record(name, setting, pooled[name], starts[name], peaks, _agreement(answers, name))
        for name in ENTRIES
        if name in pooled
    }
    idle = {name: float(np.median([turn["idle_share"] for turn in turns])) for name, turns in pooled.items()}
    return Comparison(setting, records, {k: v for k, v in ratios.items() if v}, idle, left_out)


def _ratio(peer: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[float, float, float]:
    """Median and quartiles of the rounds' ratios."""
    pairs = zip(peer["rounds"], ours["rounds"], strict=True)
    quotients = [theirs["seconds"] / own["seconds"] for theirs, own in pairs]
    low, middle, high = np.percentile(quotients, (25, 50, 75))
    return float(middle), float(low), float(high)


def _answers(rounds: Sequence[Mapping[str, Any]]) -> dict[int, Any]:
    return {turn["observation"]: np.array(turn["actions"]) for turn in rounds}


def _agreement(answers: Mapping[str, Mapping[int, Any]], name: str) -> tuple[float | None, float | None]:
    """Worst cosine and relative error over the observations, against the reference's actions."""
    wanted = next((answers[reference] for reference in REFERENCES if reference in answers), None)
    if wanted is None:
        return None, None
    pairs = [(answers[name][index], wanted[index]) for index in wanted if index in answers[name]]
    cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs]
    errors = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs]
    return min(cosines, default=None), max(errors, default=None)


def _record(
    name: str,
    setting: Setting,
    rounds: Sequence[Mapping[str, Any]],
    starts: Sequence[Mapping[str, Any]],
    peaks: Mapping[str, float],
    agreement: tuple[float | None, float | None],
) -> Record:
    precision = ENTRIES[name].precision
    seconds = Seconds.of([turn["seconds"] for turn in rounds])
    return Record(
        suite="chunk",
        name=setting.size,
        contender=name,
        precision=precision,
        threads=setting.threads,
        seconds=seconds,
        stages=_stages(rounds, starts, seconds.p50),
        flops=_flops(setting),
        peak_flops=peaks.get(precision) or (peaks.get("i8") if precision == "int8" else None),
        load_seconds=float(np.median([start["load_seconds"] for start in starts])),
        first_chunk_seconds=float(np.median([start["first_chunk_seconds"] for start in starts])),
        peak_memory_bytes=max(start["peak_memory_bytes"] for start in starts),
        cosine=agreement[0],
        relative_error=agreement[1],
    )


def _stages(rounds: Sequence[Mapping[str, Any]], starts: Sequence[Mapping[str, Any]], total: float) -> dict[str, float]:
    """Median seconds of the stages that the contender tells; else the median chunk, split as its profiled run was."""
    told = rounds[0]["stages"]
    if told:
        return {
            stage: float(np.median([turn["stages"][stage] for turn in rounds])) for stage in STAGES if stage in told
        }
    profiled = starts[-1]["profiled"]
    whole = sum(profiled.values())
    return {stage: total * profiled[stage] / whole for stage in STAGES if stage in profiled}


def _flops(setting: Setting) -> float | None:
    """FLOPs of the folded graph at this instruction's length: the work that everyone is measured by."""
    if not setting.inputs.exists():
        return None
    with np.load(setting.inputs) as inputs:
        return float(inputs["flops"])


def table(comparison: Comparison) -> str:
    """Markdown: one row a contender, then the ratios, then who was left out."""
    some = next(iter(comparison.records.values()), None)
    lines = [
        f"`{comparison.setting.size}`, {comparison.setting.threads} threads, {cpu_name()}; "
        f"{'' if some is None or not some.flops else f'{some.flops / 1e9:.1f} GFLOP a chunk when folded'}",
        "",
        "| contender | graph | runs | p50 | p95 | p99 | share of peak | peak memory | ready after | first chunk after "
        "| cosine | relative error |",
        "|---" * 12 + "|",
    ]
    lines += [_row(record) for record in comparison.records.values()]
    reference = next((name for name in REFERENCES if name in comparison.records), "nobody")
    lines += ["", f"Cosine and relative error: the worst of the observations, against {reference}."]
    lines += ["", "| peer / ours | median of the rounds' ratios | quartiles |", "|---|---|---|"]
    for peer, ours in comparison.ratios.items():
        lines += [f"| {peer} / {own} | {r[0]:.2f} | {r[1]:.2f} to {r[2]:.2f} |" for own, r in ours.items()]
    busy = {name: share for name, share in comparison.idle.items() if share > 0.05}
    if busy:
        lines += ["", "Not idle while others had their turn (CPU cores kept busy): "
                  + ", ".join(f"{name} {share:.2f}" for name, share in busy.items())]  # fmt: skip
    lines += ["", *(f"Left out: {name}: {why}" for name, why in comparison.left_out.items())]
    return "\n".join(lines).rstrip() + "\n"


def _row(record: Record) -> str:
    def time(value: float | None) -> str:
        return "" if value is None else f"{value:.3f} s" if value >= 0.2 else f"{value * 1e3:.2f} ms"

    seconds, share = record.seconds, record.share_of_peak
    cells = [
        record.contender,
        ENTRIES[record.contender].graph,
        str(seconds.runs),
        *(time(value) for value in (seconds.p50, seconds.p95, seconds.p99)),
        "" if share is None else f"{share:.0%}",
        "" if record.peak_memory_bytes is None else f"{record.peak_memory_bytes / 1e6:,.0f} MB",
        time(record.load_seconds),
        time(record.first_chunk_seconds),
        "" if record.cosine is None else f"{record.cosine:.6f}",
        "" if record.relative_error is None else f"{record.relative_error:.1e}",
    ]
    return "| " + " | ".join(cells) + " |"


def draw(comparison: Comparison, path: Path) -> None:
    """Median chunk of every contender as a bar, stacked by stage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = list(comparison.records.values())
    figure, axes = pyplot.subplots(figsize=(9, 1.6 + 0.42 * len(records)), layout="constrained")
    longest = max((record.seconds.p50 for record in records), default=1.0)
    unit, name = (1.0, "s") if longest > 0.5 else (1e3, "ms")
    left = np.zeros(len(records))
    for stage in STAGES:
        widths = np.array([(record.stages or {}).get(stage, 0.0) * unit for record in records])
        axes.barh(range(len(records)), widths, left=left, label=stage)
        left += widths
    for row, record in enumerate(records):
        axes.text(record.seconds.p50 * unit, row, f" {record.seconds.p50 * unit:.3g} {name}", va="center", fontsize=9)
    axes.set_yticks(range(len(records)), [record.contender for record in records])
    axes.invert_yaxis()
    axes.set_xlim(0, longest * unit * 1.12)
    axes.set_xlabel(f"median of one chunk, {name}; {comparison.setting.threads} threads")
    axes.set_title(f"One action chunk, {comparison.setting.size}, same weights and inputs")
    figure.legend(ncols=len(STAGES), loc="outside lower center", frameon=False)
    temporary = path.with_name(path.stem + ".tmp.png")
    figure.savefig(temporary, dpi=150)
    pyplot.close(figure)
    os.replace(temporary, path)
