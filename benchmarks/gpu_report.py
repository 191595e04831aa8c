# SPDX-License-Identifier: Apache-2.0
"""The report of a GPU check: gpu-check.json with everything, gpu-check.md for people."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MOST_FAULTS = 20


def read_result(path: Path) -> dict[str, Any] | None:
    """What a step wrote; None if it wrote nothing."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return document


def write_report(folder: Path, check: Mapping[str, Any]) -> None:
    """Both files, each under a temporary name first."""
    texts = {
        "gpu-check.json": json.dumps({"kind": "lightwam-gpu-check", **check}, indent=1),
        "gpu-check.md": text(check),
    }
    for name, contents in texts.items():
        temporary = folder / f"{name}.tmp"
        temporary.write_text(contents + "\n")
        os.replace(temporary, folder / name)
        print(f"wrote {folder / name}")


def text(check: Mapping[str, Any]) -> str:
    """The Markdown of a check."""
    gpu, results = check["gpu"], {name: result for name, result in check["results"].items() if result is not None}
    memory = f"{gpu['memory_bytes'] / 1e9:.0f} GB{', integrated' if gpu['integrated'] else ''}"
    parts = [
        f"# GPU check: {gpu['name']}",
        f"{gpu['target']}, {memory}, driver for CUDA {gpu['driver']}; {check['machine']['cores']} CPU cores, "
        f"{check['machine']['system']}.",
        "## Steps",
        table(("step", "", "s", "why"), [_step(outcome) for outcome in check["steps"]]),
    ]
    if "kernels" in results:
        parts += ["## Kernels beside their float64 references", *_kernels(results["kernels"])]
    chunks = _chunks(results)
    if chunks:
        parts += ["## One chunk, from camera images to actions", _CHUNK_NOTE]
        headings = ("policy", "p50 ms", "p95", "p99", "GPU alone, default ms", "chosen ms", "roofline ms", "share",
                    "GB on the GPU", "cosine")  # fmt: skip
        parts.append(table(headings, chunks))
    stages = _stages(results)
    if stages:
        parts += ["Median of the stages, ms, by the GPU's clock:", stages]
    for name, result in results.items():
        if name.startswith("tune "):
            parts += [
                f"## Kernels of {name.removeprefix('tune ')}",
                _LAUNCH_NOTE,
                _by_kernel(result),
                *_slow(result),
            ]
    return "\n\n".join(parts)


_CHUNK_NOTE = (
    "Percentiles: a whole chunk, frames up and actions down. GPU alone: the launches as one graph, median, with "
    "default tactics and with the chosen ones, which the policy runs. Share: of the roofline, by the latter. Cosine: "
    "the least, of the actions with those of the CPU. Memory of a policy: what is free less after it ran; of "
    "PyTorch: the most that it had."
)
_LAUNCH_NOTE = (
    "Times of the launches where they run in a chunk, the clock read between them (about a microsecond each); before "
    "each chunk the cache was filled with other bytes. First with the default tactic, then with the chosen one."
)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _step(outcome: Mapping[str, Any]) -> list[str]:
    state = outcome["state"] if outcome["state"] == "done" else f"**{outcome['state']}**"
    return [outcome["name"], state, f"{outcome['seconds']:.1f}", outcome["why"]]


def _kernels(result: Mapping[str, Any]) -> list[str]:
    wrong = [*result["faults"], *result["refused"]]
    parts = [
        f"{result['cases']} cases, {result['launches']} launches; {len(result['faults'])} differ, "
        f"{len(result['refused'])} have no machine code."
    ]
    if wrong:
        parts.append("\n".join(f"- {line}" for line in wrong[:_MOST_FAULTS]))
    if len(wrong) > _MOST_FAULTS:
        parts.append(f"And {len(wrong) - _MOST_FAULTS} more (gpu-check.json).")
    return parts


def _chunks(results: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, result in results.items():
        if name.startswith("policy "):
            tuned = results.get(f"tune {name.removeprefix('policy ')}")
            cosine = f"{min(result['cosines']):.6f}" + ("" if result["ok"] else f" **below {result['gate']}**")
            rows.append([name.removeprefix("policy "), *_times(result["seconds"]), *_alone(tuned),
                         _gigabytes(result), cosine])  # fmt: skip
        elif name.startswith("pytorch "):
            rows.append([result["contender"], *_times(result["seconds"]), "", "", "", "", _gigabytes(result), ""])
    return rows


def _stages(results: Mapping[str, Any]) -> str:
    policies = {name.removeprefix("policy "): result for name, result in results.items() if name.startswith("policy ")}
    names = list(dict.fromkeys(stage for result in policies.values() for stage in result["stages"]))
    rows = [
        [policy, *(f"{1e3 * result['stages'][name]:.3f}" if name in result["stages"] else "" for name in names)]
        for policy, result in policies.items()
    ]
    return table(("policy", *names), rows) if rows else ""


def _times(seconds: Mapping[str, float]) -> list[str]:
    return [f"{1e3 * seconds[name]:.3f}" for name in ("p50", "p95", "p99")]


def _alone(tuned: Mapping[str, Any] | None) -> list[str]:
    """Median of the launches alone with default tactics and with the chosen ones, the roofline, the share."""
    if tuned is None:
        return ["", "", "", ""]
    seconds, bound = tuned["tuned_seconds"], tuned["roofline_seconds"]
    times = [f"{1e3 * value:.3f}" for value in (tuned["default_seconds"], seconds)]
    return [*times, *(("", "") if bound is None else (f"{1e3 * bound:.3f}", _share(bound, seconds)))]


def _share(bound: float | None, seconds: float) -> str:
    return "" if bound is None or seconds <= 0 else f"{bound / seconds:.0%}"


def _gigabytes(result: Mapping[str, Any]) -> str:
    return f"{result['device_memory_bytes'] / 1e9:.2f}"


def _by_kernel(result: Mapping[str, Any]) -> str:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in result["tasks"]:
        groups[row["kernel"]].append(row)
    whole = sum(row["seconds"] for row in result["tasks"])
    rows = []
    for kernel, tasks in sorted(groups.items(), key=lambda item: -sum(row["seconds"] for row in item[1])):
        default, seconds = (sum(row[name] for row in tasks) for name in ("default_seconds", "seconds"))
        bounds = [row["roofline_seconds"] for row in tasks]
        bound = None if None in bounds else sum(bounds)
        rows.append([
            kernel, str(sum(row["launches"] for row in tasks)), f"{1e6 * default:.1f}", f"{1e6 * seconds:.1f}",
            f"{seconds / whole:.0%}", "" if bound is None else f"{1e6 * bound:.1f}", _share(bound, seconds),
        ])  # fmt: skip
    return table(("kernel", "launches", "default µs", "µs", "of all", "roofline µs", "share"), rows)


def _slow(result: Mapping[str, Any]) -> list[str]:
    """The ten tasks that take longest."""
    tasks = sorted(result["tasks"], key=lambda row: -float(row["seconds"]))[:10]
    rows = [
        [row["label"], row["kernel"], str(row["launches"]), f"{1e6 * row['default_seconds'] / row['launches']:.2f}",
         f"{1e6 * row['seconds'] / row['launches']:.2f}", _share(row["roofline_seconds"], row["seconds"]),
         str(row["tactic_index"]), row["tactic"]]
        for row in tasks
    ]  # fmt: skip
    headings = ("task", "kernel", "launches", "default µs a launch", "µs a launch", "share", "tactic", "which is")
    return [table(headings, rows)]
