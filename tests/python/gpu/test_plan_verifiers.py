# SPDX-License-Identifier: Apache-2.0
"""Random changes of good launch plans: the exporter's verifier and the runtime's accept and refuse the same ones."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.engine_files import small_engine, write_engine
from helpers.shells import write_shell_engine
from lightwam.engine.file import read_engine
from lightwam.engine.graph import Graph
from lightwam.errors import EngineError, ExportError
from lightwam.gpu.lower import lower
from lightwam.gpu.plan import (
    SPACES,
    Address,
    Buffer,
    Launch,
    LaunchPlan,
    ProgramPlan,
    SideStream,
    plan_to_json,
)
from lightwam.gpu.verify import verify_plan
from lightwam.runtime import _engine

CHANGED_PLANS = 1500
OFFSETS = (0, 4, 8, 16, 32, 48, 64, 128, 256, 512, 1024)
NAMES = ("actions", "state", "latents", "context", "text_rows", "frame_sizes", "frames.agentview", "y")
SIZES = (None, 4, 16, 20, 32, 48, 192)
SHAPES = (None, (1,), (4,), (8,), (48,))


class Changes:
    """Draws changed plans. Numbers are plausible ones, so that many changes are legal."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def plan(self, plan: LaunchPlan) -> LaunchPlan:
        """One to three changes."""
        for _ in range(self._random.choice((1, 1, 1, 2, 2, 3))):
            plan = self._random.choices((self._program, self._weights, self._task), (9, 2, 1))[0](plan)
        return plan

    def _program(self, plan: LaunchPlan) -> LaunchPlan:
        name = self._random.choice(("act", "act", "set_instruction"))
        program = plan.programs[name]
        kind = self._random.choices((self._buffer, self._launch, self._arena, self._side), (3, 5, 1, 2))[0]
        return replace(plan, programs={**plan.programs, name: kind(program, plan)})

    def _arena(self, program: ProgramPlan, plan: LaunchPlan) -> ProgramPlan:
        return replace(program, arena_bytes=max(0, program.arena_bytes + self._random.choice((-256, -64, -1, 256))))

    def _side(self, program: ProgramPlan, plan: LaunchPlan) -> ProgramPlan:
        ends = range(len(program.launches) + 2)
        first, second = self._random.choice(ends), self._random.choice(ends)
        ordered = SideStream(min(first, second), max(first, second))
        return replace(program, side_stream=self._random.choice((None, SideStream(first, second), ordered, ordered)))

    def _buffer(self, program: ProgramPlan, plan: LaunchPlan) -> ProgramPlan:
        buffers = list(program.buffers)
        index = self._random.randrange(len(buffers))
        changed = buffers[index]
        others: dict[str, tuple[Any, ...]] = {
            "offset": (*OFFSETS, program.arena_bytes, *(buffer.offset for buffer in buffers)),
            "num_bytes": (*SIZES, (changed.num_bytes or 0) + 16, max(1, (changed.num_bytes or 0) - 16)),
            "space": SPACES,
            "name": (*NAMES, *(buffer.name for buffer in buffers)),
        }
        field = self._random.choice(("offset", "offset", "offset", "num_bytes", "space", "name"))
        buffers[index] = replace(changed, **{field: self._random.choice(others[field])})
        return replace(program, buffers=tuple(buffers))

    def _launch(self, program: ProgramPlan, plan: LaunchPlan) -> ProgramPlan:
        launches = list(program.launches)
        if not launches:
            return program
        launch = launches.pop(self._random.randrange(len(launches)))
        kind = self._random.choice(("drop", "move", "copy", "task", "argument", "argument", "argument"))
        if kind == "copy":
            launches.append(launch)
        elif kind == "task":
            launch = replace(launch, task=self._random.randrange(len(plan.tasks) + 1))
        elif kind == "argument":
            launch = self._argument(launch, program.buffers, plan.weights_bytes)
        if kind != "drop":
            launches.insert(self._random.randrange(len(launches) + 1), launch)
        return replace(program, launches=tuple(launches))

    def _argument(self, launch: Launch, buffers: tuple[Buffer, ...], weights_bytes: int) -> Launch:
        arguments = list(launch.arguments)
        index = self._random.randrange(len(arguments))
        drawn: tuple[Callable[[], Address], ...] = (
            lambda: Address(self._random.randrange(len(buffers) + 1), self._random.choice((0, 0, 0, 8, 16, 64))),
            lambda: Address(None, self._random.choice((*OFFSETS, weights_bytes))),
            lambda: replace(arguments[index], offset=self._random.choice(OFFSETS)),
            lambda: self._random.choice(arguments),
        )
        arguments[index] = self._random.choice(drawn)()
        return replace(launch, arguments=tuple(arguments))

    def _weights(self, plan: LaunchPlan) -> LaunchPlan:
        weights, size = dict(plan.weights), plan.weights_bytes
        name, kind = self._random.choice(list(weights)), self._random.choice(("offset", "drop", "block"))
        if kind == "offset":
            weights[name] = self._random.choice((*OFFSETS, size, *weights.values()))
        elif kind == "drop":
            del weights[name]
        else:
            size = max(0, size + self._random.choice((-256, -16, 16, 256)))
        return replace(plan, weights=weights, weights_bytes=size)

    def _task(self, plan: LaunchPlan) -> LaunchPlan:
        tasks = list(plan.tasks)
        index = self._random.randrange(len(tasks))
        task = tasks[index].task
        arguments = list(task.arguments)
        which = self._random.randrange(len(arguments))
        changed = arguments[which]
        if self._random.random() < 0.5:
            changed = replace(changed, mode="r" if changed.mode == "w" else "w")
        else:
            changed = replace(changed, shape=self._random.choice((*SHAPES, (*(changed.shape or ()), 2))))
        arguments[which] = changed
        tasks[index] = replace(tasks[index], task=replace(task, arguments=tuple(arguments)))
        return replace(plan, tasks=tuple(tasks))


class PlanFile:
    """An engine file whose plan is exchanged again and again; machine code and weights stay."""

    def __init__(self, graph: Graph, plan: LaunchPlan, path: Path) -> None:
        write_shell_engine(graph, plan, path)
        content = path.read_bytes()
        (size,) = struct.unpack_from("<Q", content)
        self._path, self._header, self._tensors = path, json.loads(content[8 : 8 + size]), content[8 + size :]
        self._document = json.loads(self._header["__metadata__"]["lightwam"])
        self._tactics = [task["tactics"] for task in self._document["gpu"]["tasks"]]

    def fault(self, plan: LaunchPlan) -> str:
        """What the runtime says about the plan; empty if it accepts it."""
        gpu = plan_to_json(plan) | {"images": self._document["gpu"]["images"]}
        for task, tactics in zip(gpu["tasks"], self._tactics, strict=True):
            task["tactics"] = tactics
        self._header["__metadata__"] = {"lightwam": json.dumps(self._document | {"gpu": gpu})}
        header = json.dumps(self._header).encode()
        header += b" " * (-(len(header) + 8) % 64)
        self._path.write_bytes(struct.pack("<Q", len(header)) + header + self._tensors)
        try:
            _engine.verify(str(self._path))
        except EngineError as error:
            return str(error)
        return ""


def fault(plan: LaunchPlan, graph: Graph) -> str:
    """What the exporter says about the plan; empty if it accepts it."""
    try:
        verify_plan(plan, graph)
    except ExportError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("images", [True, False])
def test_both_verifiers_accept_the_same_plans(tmp_path: Path, images: bool) -> None:
    graph = read_engine(write_engine(tmp_path / "plain.lwam", small_engine(images=images)))
    plan = lower(graph)
    file, changes = PlanFile(graph, plan, tmp_path / "changed.lwam"), Changes(seed=int(images))
    assert fault(plan, graph) == file.fault(plan) == ""
    accepted = 0
    for _ in range(CHANGED_PLANS):
        changed = changes.plan(plan)
        exporter, runtime = fault(changed, graph), file.fault(changed)
        assert bool(exporter) == bool(runtime), (exporter, runtime, changed.programs)
        assert "\n" not in exporter + runtime
        accepted += not runtime
    assert 0.1 < accepted / CHANGED_PLANS < 0.9  # some of either


def test_a_frame_is_passed_from_its_first_byte(tmp_path: Path) -> None:
    graph = read_engine(write_engine(tmp_path / "plain.lwam", small_engine()))
    plan = lower(graph)
    act = plan.programs["act"]
    frames = {index for index, buffer in enumerate(act.buffers) if buffer.num_bytes is None}
    launch = next(launch for launch in act.launches if Address(min(frames), 0) in launch.arguments)
    moved = tuple(Address(a.buffer, 16) if a == Address(min(frames), 0) else a for a in launch.arguments)
    launches = tuple(replace(each, arguments=moved) if each is launch else each for each in act.launches)
    changed = replace(plan, programs={**plan.programs, "act": replace(act, launches=launches)})
    assert "outside" in fault(changed, graph)
    assert "do not go together" in PlanFile(graph, plan, tmp_path / "changed.lwam").fault(changed)
