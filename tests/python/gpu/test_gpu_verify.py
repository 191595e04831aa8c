# SPDX-License-Identifier: Apache-2.0
"""Damaged launch plans are refused, one line for each rule; the plan's JSON; its memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.gpu_graphs import golden_sample
from helpers.plan_runner import PlanRunner
from lightwam.engine.graph import Graph
from lightwam.errors import ExportError
from lightwam.gpu.intervals import Intervals
from lightwam.gpu.plan import Address, Launch, LaunchPlan, ProgramPlan, plan_to_json
from lightwam.gpu.verify import verify_plan


@pytest.fixture(scope="module")
def graph() -> Graph:
    return golden_sample("golden_set3", "f32", "folded").graph


@pytest.fixture(scope="module")
def plan() -> LaunchPlan:
    return golden_sample("golden_set3", "f32", "folded").plan


def _with_program(plan: LaunchPlan, change: Callable[[ProgramPlan], ProgramPlan], name: str = "act") -> LaunchPlan:
    return replace(plan, programs={**plan.programs, name: change(plan.programs[name])})


def _with_launch(plan: LaunchPlan, index: int, change: Callable[[Launch], Launch]) -> LaunchPlan:
    def changed(program: ProgramPlan) -> ProgramPlan:
        launches = list(program.launches)
        launches[index] = change(launches[index])
        return replace(program, launches=tuple(launches))

    return _with_program(plan, changed)


def _with_buffer(plan: LaunchPlan, space: str, /, **fields: object) -> LaunchPlan:
    """The first buffer of a space with other fields."""

    def changed(program: ProgramPlan) -> ProgramPlan:
        buffers = list(program.buffers)
        index = next(i for i, buffer in enumerate(buffers) if buffer.space == space)
        buffers[index] = replace(buffers[index], **fields)  # type: ignore[arg-type]
        return replace(program, buffers=tuple(buffers))

    return _with_program(plan, changed)


def _first(launch: Launch, address: Address) -> Launch:
    return replace(launch, arguments=(address, *launch.arguments[1:]))


def _written(launch: Launch) -> Address:
    return launch.arguments[-1]


def _all_at_zero(program: ProgramPlan) -> ProgramPlan:
    moved = [replace(b, offset=0) if b.space == "arena" else b for b in program.buffers]
    return replace(program, buffers=tuple(moved))


DAMAGES: dict[str, tuple[Callable[[LaunchPlan], LaunchPlan], str]] = {
    "program": (lambda p: replace(p, programs={"act": p.programs["act"]}), "programs are"),
    "unknown weight": (lambda p: replace(p, weights={**p.weights, "none": 0}), "weight none"),
    "weights overlap": (lambda p: replace(p, weights=dict.fromkeys(p.weights, 0)), "taken"),
    "unaligned weight": (lambda p: replace(p, weights={k: v + 4 for k, v in p.weights.items()}), "unaligned"),
    "block of weights": (lambda p: replace(p, weights_bytes=p.weights_bytes - 16), "after their block"),
    "space": (lambda p: _with_buffer(p, "arena", space="shared"), "space 'shared'"),
    "arena's end": (lambda p: _with_program(p, lambda q: replace(q, arena_bytes=q.arena_bytes - 256)), "do not fit"),
    "unaligned buffer": (lambda p: _with_buffer(p, "arena", offset=128), "do not fit"),
    "input's size": (lambda p: _with_buffer(p, "input", num_bytes=4), "do not fit"),
    "unknown input": (lambda p: _with_buffer(p, "input", name="torque"), "do not fit"),
    "output's size": (lambda p: _with_buffer(p, "output", num_bytes=4), "do not fit"),
    "size of no frame": (lambda p: _with_buffer(p, "arena", num_bytes=None), "do not fit"),
    "task": (lambda p: _with_launch(p, 0, lambda launch: replace(launch, task=999)), "task 999"),
    "buffer": (lambda p: _with_launch(p, 0, lambda launch: _first(launch, Address(999, 0))), "buffer 999"),
    "addresses": (lambda p: _with_launch(p, 0, lambda launch: replace(launch, arguments=())), "0 addresses"),
    "extent": (
        lambda p: _with_launch(p, 0, lambda launch: _first(launch, Address(None, p.weights_bytes))), "outside"
    ),
    "negative": (lambda p: _with_launch(p, 0, lambda launch: _first(launch, Address(None, -16))), "outside"),
    "unaligned address": (lambda p: _with_launch(p, 3, lambda launch: _first(launch, Address(None, 8))), "unaligned"),
    "write to weights": (
        lambda p: _with_launch(
            p, 0, lambda launch: replace(launch, arguments=(*launch.arguments[:-1], Address(None, 0)))
        ), "read-only",
    ),
    "in place": (lambda p: _with_launch(p, 3, lambda launch: _first(launch, _written(launch))), "share bytes"),
    "order": (lambda p: _with_program(p, lambda q: replace(q, launches=q.launches[::-1])), "nothing wrote"),
    "missing launch": (lambda p: _with_program(p, lambda q: replace(q, launches=q.launches[1:])), "nothing wrote"),
    "missing output": (lambda p: _with_program(p, lambda q: replace(q, launches=q.launches[:-1])), "not written whole"),
    "instruction": (
        lambda p: _with_program(p, lambda q: replace(q, launches=q.launches[:-1]), "set_instruction"), "nothing wrote"
    ),
    "lifetimes": (lambda p: _with_program(p, _all_at_zero), "share bytes"),
}  # fmt: skip


def test_a_lowered_plan_is_accepted(plan: LaunchPlan, graph: Graph) -> None:
    verify_plan(plan, graph)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_plan_is_refused(name: str, plan: LaunchPlan, graph: Graph) -> None:
    damage, message = DAMAGES[name]
    with pytest.raises(ExportError, match=message) as raised:
        verify_plan(damage(plan), graph)
    assert "\n" not in str(raised.value)


def test_act_may_not_write_the_instruction(plan: LaunchPlan, graph: Graph) -> None:
    program = plan.programs["set_instruction"]
    moved = replace(plan, programs={"set_instruction": program, "act": replace(program, launches=program.launches)})
    with pytest.raises(ExportError):
        verify_plan(moved, graph)


def test_json_says_what_the_contract_says(plan: LaunchPlan) -> None:
    document = json.loads(json.dumps(plan_to_json(plan), allow_nan=False))
    assert document["plan_version"] == 1
    assert set(document) == {"plan_version", "weights_bytes", "weights", "images", "tasks", "programs"}
    keys = {"kernel", "label", "arguments", "flops", "product_type", "tactics"}
    assert {frozenset(task) for task in document["tasks"]} == {frozenset(keys), frozenset(keys | {"linear"})}
    act = document["programs"]["act"]
    assert set(act) == {"arena_bytes", "buffers", "launches", "side"}
    assert set(act["side"]) == {"launches", "join"}
    assert "side" not in document["programs"]["set_instruction"]
    kinds = {address[0] for launch in act["launches"] for address in launch["arguments"]}
    assert kinds == {"b", "w"}
    assert all(len(a) == (3 if a[0] == "b" else 2) for launch in act["launches"] for a in launch["arguments"])


def test_inputs_are_checked_before_a_run(plan: LaunchPlan, graph: Graph) -> None:
    runner = PlanRunner(graph, plan, "reference")
    with pytest.raises(ExportError, match="act before set_instruction"):
        runner.act(np.zeros(8, np.float32))
    with pytest.raises(ExportError, match="context has shape"):
        runner.set_instruction(np.zeros((1, 3), np.float32))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12), st.integers(0, 60), st.integers(0, 20))
def test_intervals_are_sets_of_bytes(pairs: list[tuple[int, int]], start: int, size: int) -> None:
    intervals, numbers = Intervals(), set[int]()
    for first, length in pairs:
        intervals.add(first, first + length)
        numbers |= set(range(first, first + length))
    assert intervals.total() == len(numbers)
    assert intervals.covers(start, start + size) == (set(range(start, start + size)) <= numbers)
