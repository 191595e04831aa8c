# SPDX-License-Identifier: Apache-2.0
"""What `lightwam tune` measured of an engine's launches, beside the roofline of the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_driver import GpuFacts

from lightwam.engine.file import read_engine, read_gpu_document
from lightwam.gpu.lower import lower
from lightwam.gpu.report import PlanCosts, plan_costs
from lightwam.gpu.roofline import DEVICES, Device, chunk_seconds, launch_seconds
from lightwam.runtime import TaskTiming, Tuning

#: What a GPU's name holds -> its roofline.
_ROOFLINES: Mapping[str, Device] = {
    "H200": replace(DEVICES["h100"], name="H200", bandwidth=4.8e12, memory=141e9, measured=False),
    "H100": DEVICES["h100"],
    "4090": DEVICES["4090"],
    "Thor": DEVICES["thor"],
    "Orin": DEVICES["orin"],
}
_NANO_MEMORY = 10 << 30  # an Orin with less is an Orin Nano


def roofline_of(facts: GpuFacts) -> Device | None:
    """Peaks and bandwidth of the GPU; None for one that no table holds."""
    if "Orin" in facts.name and facts.memory_bytes < _NANO_MEMORY:
        return DEVICES["orin-nano"]
    return next((device for name, device in _ROOFLINES.items() if name in facts.name), None)


def launch_times(facts: GpuFacts, engine: Path, tuning: Tuning) -> dict[str, Any]:
    """A chunk and each of its tasks: {"tuned_seconds", "roofline_seconds", "tasks": [...], ...}; JSON."""
    document = read_gpu_document(engine)
    assert document is not None  # it was tuned
    graph = read_engine(engine)
    device = roofline_of(facts)
    costs = plan_costs(lower(graph), graph)
    bounds = _bounds(costs, device)
    names: dict[int, list[str]] = {}
    for launch in document["programs"]["act"]["launches"]:
        names.setdefault(launch["task"], []).append(launch["name"])
    return {
        "engine": engine.name,
        "roofline": None if device is None else {"name": device.name, "measured": device.measured},
        "roofline_seconds": None if device is None else sum(chunk_seconds(costs, device)),
        "launches": sum(map(len, names.values())),
        "default_seconds": tuning.default_seconds,
        "tuned_seconds": tuning.tuned_seconds,
        "cosine": tuning.cosine,
        "tasks": [_task_row(tuning.tasks[task], own, bounds) for task, own in names.items()],
    }


def _bounds(costs: PlanCosts, device: Device | None) -> dict[str, float]:
    """Seconds of each launch by itself at the whole of the roofline, by its name."""
    return {} if device is None else {launch.name: launch_seconds(launch, device) for launch in costs.launches}


def _task_row(task: TaskTiming, names: list[str], bounds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "kernel": task.kernel,
        "label": task.label,
        "launches": task.launches,
        "default_seconds": task.seconds[0],
        "seconds": task.seconds[task.chosen],
        "tactic": task.tactics[task.chosen],
        "tactic_index": task.chosen,
        "roofline_seconds": sum(bounds[name] for name in names) if bounds else None,
    }
