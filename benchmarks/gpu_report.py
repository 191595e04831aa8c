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
        f"{gpu['target']}, {memory}, driver for CUDA {gpu['driver']}; {check['machine']['cores']} processor cores, "
        f"{check['machine']['system']}.",
        "## Steps",
        table(("step", "", "s", "why"), [_step(outcome) for outcome in check["steps"]]),
    ]
    if "kernels" in results:
        parts += ["## Kernels beside their float64 references", *_kernels(results["kernels"])]
    chunks = _chunks(results)
    if chunks:
        parts += ["## One chunk, from camera images to actions", _CHUNK_NOTE]
        headings = ("policy", "p50 ms", "p95", "p99", "GPU alone ms", "roofline ms", "share", "GB on the GPU", "cosine")
        parts.append(table(headings, chunks))
    for name, result in results.items():
        if name.startswith("launches "):
            parts += [
                f"## Kernels of {name.removeprefix('launches ')}",
                _LAUNCH_NOTE,
                _by_kernel(result),
                *_slow(result),
            ]
    return "\n\n".join(parts)


_CHUNK_NOTE = (
    "Percentiles: a whole chunk, frames up and actions down. GPU alone: the launches as one graph, median. Share: of "
    "the roofline, by the time of the GPU alone. Cosine: the least, of the actions with those of the processor. Memory "
    "of a policy: what is free less after it ran; of PyTorch: the most that it had."
)
_LAUNCH_NOTE = (
    "Each task's launches of a chunk as one graph, each with its own weights, inputs mostly in the cache; tactic: the "
    "default. Best: with the fastest tactic of every task."
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
            launches = results.get(f"launches {name.removeprefix('policy ')}")
            cosine = f"{min(result['cosines']):.6f}" + ("" if result["ok"] else f" **below {result['gate']}**")
            rows.append([name.removeprefix("policy "), *_times(result["seconds"]), *_alone(launches),
                         _gigabytes(result), cosine])  # fmt: skip
        elif name.startswith("pytorch "):
            rows.append([result["contender"], *_times(result["seconds"]), "", "", "", _gigabytes(result), ""])
    return rows


def _times(seconds: Mapping[str, float]) -> list[str]:
    return [f"{1e3 * seconds[name]:.3f}" for name in ("p50", "p95", "p99")]


def _alone(launches: Mapping[str, Any] | None) -> list[str]:
    """Median of the launches alone, the roofline, the share."""
    if launches is None:
        return ["", "", ""]
    samples = sorted(launches["chunk_seconds"])
    median, bound = samples[len(samples) // 2], launches["roofline_seconds"]
    return [f"{1e3 * median:.3f}", *(("", "") if bound is None else (f"{1e3 * bound:.3f}", _share(bound, median)))]


def _share(bound: float | None, seconds: float) -> str:
    return "" if bound is None or seconds <= 0 else f"{bound / seconds:.0%}"


def _gigabytes(result: Mapping[str, Any]) -> str:
    return f"{result['device_memory_bytes'] / 1e9:.2f}"


def _by_kernel(result: Mapping[str, Any]) -> str:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in result["tasks"]:
        groups[row["kernel"]].append(row)
    whole = sum(row["seconds"][0] for row in result["tasks"])
    rows = []
    for kernel, tasks in sorted(groups.items(), key=lambda item: -sum(row["seconds"][0] for row in item[1])):
        seconds, best = (sum(pick(row["seconds"]) for row in tasks) for pick in (lambda times: times[0], min))
        bounds = [row["roofline_seconds"] for row in tasks]
        bound = None if None in bounds else sum(bounds)
        rows.append([
            kernel, str(sum(row["launches"] for row in tasks)), f"{1e6 * seconds:.1f}", f"{seconds / whole:.0%}",
            f"{1e6 * best:.1f}", "" if bound is None else f"{1e6 * bound:.1f}", _share(bound, seconds),
        ])  # fmt: skip
    return table(("kernel", "launches", "µs", "of all", "best µs", "roofline µs", "share"), rows)


def _slow(result: Mapping[str, Any]) -> list[str]:
    """The ten tasks that take longest."""
    tasks = sorted(result["tasks"], key=lambda row: -float(row["seconds"][0]))[:10]
    rows = [
        [row["label"], row["kernel"], str(row["launches"]), f"{1e6 * row['seconds'][0] / row['launches']:.2f}",
         _share(row["roofline_seconds"], row["seconds"][0]), row["tactics"][0],
         row["tactics"][row["seconds"].index(min(row["seconds"]))]]
        for row in tasks
    ]  # fmt: skip
    return [table(("task", "kernel", "launches", "µs a launch", "share", "tactic", "fastest tactic"), rows)]
