# SPDX-License-Identifier: Apache-2.0
"""The launches of an engine file on the GPU, from Python: the device's time of a chunk, and of each kernel in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from gpu_driver import Function, Gpu, GpuFacts
from numpy.typing import NDArray

from lightwam.export.engine import read_engine, read_gpu_document, read_tensors
from lightwam.export.gpu.lower import lower
from lightwam.export.gpu.report import FRAME_SIZE, PlanCosts, plan_costs
from lightwam.export.gpu.roofline import DEVICES, Device, launch_seconds

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


class PlanOnGpu:
    """An engine file's launch plan with its memory on the GPU, inputs random, an instruction of `text_rows` rows."""

    def __init__(self, gpu: Gpu, engine: Path, target: str, text_rows: int) -> None:
        document = read_gpu_document(engine)
        if document is None or target not in document["images"]:
            raise ValueError(f"{engine}: no machine code for {target}: run lightwam compile --targets {target}")
        self._gpu, self._target, self.tasks = gpu, target, document["tasks"]
        tensors = read_tensors(engine)
        self._image = tensors[document["images"][target]].array().tobytes()
        self._weights = gpu.allocate(document["weights_bytes"])
        for entry in document["weights"]:
            stored = np.ascontiguousarray(tensors[entry["tensor"]].array()).reshape(-1).view(np.uint8)
            gpu.upload(self._weights + entry["offset"], stored)
        self._programs = document["programs"]
        self._spaces = {
            "arena": gpu.allocate(max(program["arena_bytes"] for program in self._programs.values())),
            "instruction": gpu.allocate(self._extent("instruction")),
        }
        self._inputs: dict[str, int] = {}
        self._functions: dict[tuple[int, int], Function] = {}
        self._bind(text_rows)
        for name in ("set_instruction", "act"):
            for launch in self._programs[name]["launches"]:
                self.enqueue(name, launch)
            gpu.wait()

    def _extent(self, space: str) -> int:
        """The end of the last buffer of a space."""
        buffers = [b for program in self._programs.values() for b in program["buffers"] if b["space"] == space]
        return max((b["offset"] + b["bytes"] for b in buffers), default=0)

    def _bind(self, text_rows: int) -> None:
        """Random inputs; those that say how much there is are true."""
        generator = np.random.default_rng(0)
        for buffer in (b for program in self._programs.values() for b in program["buffers"]):
            name, num_bytes = buffer["name"], buffer["bytes"]
            if buffer["space"] not in ("input", "output") or name in self._inputs:
                continue
            contents: NDArray[Any]
            if name == "text_rows":
                contents = np.array([text_rows], np.int32)
            elif name == "frame_sizes":
                contents = np.array([FRAME_SIZE] * (num_bytes // 8), np.int32)
            elif num_bytes is None:
                contents = generator.integers(0, 256, math.prod(FRAME_SIZE) * 3, dtype=np.uint8)
            else:
                contents = generator.standard_normal(num_bytes // 4).astype(np.float32)
            self._inputs[name] = self._gpu.allocate(contents.nbytes)
            self._gpu.upload(self._inputs[name], contents)

    @property
    def launches(self) -> Sequence[Mapping[str, Any]]:
        """Those of `act`, in order."""
        launches: Sequence[Mapping[str, Any]] = self._programs["act"]["launches"]
        return launches

    def tactics(self, task: int) -> Sequence[Mapping[str, Any]]:
        """A task's ways for this GPU, the default first."""
        ways: Sequence[Mapping[str, Any]] = self.tasks[task]["tactics"][self._target]
        return ways

    def enqueue(self, program: str, launch: Mapping[str, Any], tactic: int = 0) -> None:
        """Put a launch on the GPU's stream."""
        key = (launch["task"], tactic)
        if key not in self._functions:
            code = self.tactics(launch["task"])[tactic]
            cubin = self._image[code["offset"] : code["offset"] + code["bytes"]]
            function = self._gpu.load(cubin, code["entry"], code["grid"], code["threads"], code["shared"])
            self._functions[key] = function
        self._gpu.launch(self._functions[key], [self._address(program, a) for a in launch["arguments"]])

    def _address(self, program: str, address: Sequence[Any]) -> int:
        if address[0] == "w":
            return self._weights + int(address[1])
        buffer = self._programs[program]["buffers"][address[1]]
        if buffer["space"] in self._spaces:
            return self._spaces[buffer["space"]] + int(buffer["offset"]) + int(address[2])
        return self._inputs[buffer["name"]] + int(address[2])

    def chunk_seconds(self, repeats: int) -> list[float]:
        """Device time of `act` as one graph, without copies of inputs and actions."""
        return self._gpu.seconds(lambda: [self.enqueue("act", launch) for launch in self.launches], repeats, 3)

    def task_seconds(self, task: int, tactic: int, repeats: int) -> float:
        """Device time of all launches of a task in `act`, in order, each with its own weights; the median."""
        own = [launch for launch in self.launches if launch["task"] == task]
        return median(self._gpu.seconds(lambda: [self.enqueue("act", launch, tactic) for launch in own], repeats))


def measure_launches(gpu: Gpu, facts: GpuFacts, engine: Path, repeats: int) -> dict[str, Any]:
    """Times of an engine's launches: {"chunk_seconds": [...], "roofline_seconds", "tasks": [...]}; JSON."""
    graph = read_engine(engine)
    costs, device = plan_costs(lower(graph), graph), roofline_of(facts)
    plan = PlanOnGpu(gpu, engine, facts.target, costs.text_rows)
    bounds = _bounds(costs, device)
    rows = [
        _task_row(plan, task, bounds, repeats) for task in dict.fromkeys(launch["task"] for launch in plan.launches)
    ]
    return {
        "engine": engine.name,
        "roofline": None if device is None else {"name": device.name, "measured": device.measured},
        "roofline_seconds": None if device is None else sum(bounds.values()),
        "launches": len(plan.launches),
        "chunk_seconds": plan.chunk_seconds(4 * repeats),
        "tasks": rows,
    }


def _bounds(costs: PlanCosts, device: Device | None) -> dict[str, float]:
    """Seconds of each launch at the whole of the roofline, by its name."""
    return {} if device is None else {launch.name: launch_seconds(launch, device) for launch in costs.launches}


def _task_row(plan: PlanOnGpu, task: int, bounds: Mapping[str, float], repeats: int) -> dict[str, Any]:
    names = [launch["name"] for launch in plan.launches if launch["task"] == task]
    tactics = plan.tactics(task)
    return {
        "kernel": plan.tasks[task]["kernel"],
        "label": plan.tasks[task]["label"],
        "launches": len(names),
        "seconds": [plan.task_seconds(task, index, repeats) for index in range(len(tactics))],
        "tactics": [tactic["note"] for tactic in tactics],
        "registers": tactics[0]["registers"],
        "roofline_seconds": sum(bounds[name] for name in names) if bounds else None,
    }
