# SPDX-License-Identifier: Apache-2.0
"""What `lightwam tune` measured of an engine's launches, beside the roofline of the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_driver import GpuFacts

from lightwam.engine.file import read_engine, read_gpu_document
from lightwam.gpu.lower import lower
from lightwam.gpu.report import PlanCosts, plan_costs
from lightwam.gpu.roofline import chunk_seconds, launch_seconds
from lightwam.kernels.targets import GPUS, Gpu
from lightwam.runtime import TaskTiming, Tuning


def roofline_of(facts: GpuFacts) -> Gpu | None:
    """The GPU's datasheet: of those with its name the one whose memory is nearest; None where the table has none."""
    named = (gpu for gpu in GPUS.values() if gpu.driver_name in facts.name)
    return min(named, key=lambda gpu: abs(gpu.memory - facts.memory_bytes), default=None)


def launch_times(facts: GpuFacts, engine: Path, tuning: Tuning) -> dict[str, Any]:
    """A chunk and each of its tasks: {"tuned_seconds", "roofline_seconds", "tasks": [...], ...}; JSON."""
    document = read_gpu_document(engine)
    assert document is not None  # it was tuned
    graph = read_engine(engine)
    gpu = roofline_of(facts)
    costs = plan_costs(lower(graph), graph)
    bounds = _bounds(costs, gpu)
    names: dict[int, list[str]] = {}
    for launch in document["programs"]["act"]["launches"]:
        names.setdefault(launch["task"], []).append(launch["name"])
    return {
        "engine": engine.name,
        "roofline": None if gpu is None else {"name": gpu.name, "measured": gpu.measured},
        "roofline_seconds": None if gpu is None else sum(chunk_seconds(costs, gpu)),
        "launches": sum(map(len, names.values())),
        "default_seconds": tuning.default_seconds,
        "tuned_seconds": tuning.tuned_seconds,
        "cosine": tuning.cosine,
        "tasks": [_task_row(tuning.tasks[task], own, bounds) for task, own in names.items()],
    }


def _bounds(costs: PlanCosts, gpu: Gpu | None) -> dict[str, float]:
    """Seconds of each launch by itself at the whole of the roofline, by its name."""
    return {} if gpu is None else {launch.name: launch_seconds(launch, gpu).alone for launch in costs.launches}


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
