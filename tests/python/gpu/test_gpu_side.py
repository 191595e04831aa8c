# SPDX-License-Identifier: Apache-2.0
"""The side stream of a launch plan: what is in it, that every order computes the same bits, that no race passes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from helpers.gpu_graphs import bundled_sample, full_size_plan, golden_sample, small_sample
from helpers.plan_runner import Order, PlanRunner, ordered_launches
from lightwam.engine.dtypes import Array
from lightwam.engine.graph import Graph
from lightwam.errors import ExportError
from lightwam.gpu.lower import lower
from lightwam.gpu.plan import Launch, LaunchPlan, ProgramPlan, SideStream, accesses
from lightwam.gpu.verify import verify_plan

ORDERS: tuple[Order, ...] = get_args(Order)
CHANGED_PLANS = 300


@pytest.mark.parametrize("name", ["libero", "robotwin"])
def test_the_side_stream_of_a_full_size_policy_is_the_state_s_row(name: str) -> None:
    """Beside it: preprocessing, the VAE, and the first block up to its cross-attention."""
    program = full_size_plan(name, "int8").programs["act"]
    assert program.side_stream is not None
    side, beside = program.launches[: program.side_stream.launches], program.launches[: program.side_stream.join]
    assert [launch.name.split(".")[0] for launch in side] == [
        "state_normalized", "proprio_embedding", "proprio_row", *(3 * ("blocks",))
    ]  # fmt: skip
    assert {launch.stage for launch in beside[len(side) :]} == {"preprocess", "vae", "backbone"}
    assert program.launches[program.side_stream.join].name == "blocks.0.cross_attn.o"


def test_programs_without_a_side_stream_that_pays_have_none() -> None:
    """An instruction waits for no camera; a side stream of few launches, or beside few, is not worth two more waits."""
    plan = golden_sample("golden_set1", "f32", "folded").plan
    assert plan.programs["set_instruction"].side_stream is None and plan.programs["act"].side_stream is not None


@pytest.mark.parametrize(
    "sample",
    [
        lambda: golden_sample("golden_set1", "f32", "folded"),
        lambda: golden_sample("golden_set3", "int8", "projected"),
        lambda: small_sample("bf16"),
        bundled_sample,
    ],
    ids=["golden_set1", "golden_set3", "images", "nano"],
)
def test_every_order_computes_the_same_bits(sample: Any) -> None:
    given = sample()
    chunks = []
    for order in ORDERS:
        runner = PlanRunner(given.graph, given.plan, "reference", order=order)
        runner.set_instruction(given.context)
        chunks.append(runner.act(given.state, given.latents, given.images))
    assert all(np.array_equal(chunk, chunks[0]) for chunk in chunks)


def test_the_orders_of_a_program() -> None:
    launches = tuple(Launch(name, "backbone", 0, ()) for name in "abcdefg")
    program = ProgramPlan(0, (), launches, SideStream(2, 5))
    names = {order: "".join(launch.name for launch in ordered_launches(program, order)) for order in ORDERS}
    assert names == {"side_first": "abcdefg", "side_last": "cdeabfg", "in_turns": "cadbefg"}
    assert ordered_launches(replace(program, side_stream=None), "side_last") == launches


@pytest.fixture(scope="module")
def graph() -> Graph:
    return golden_sample("golden_set3", "f32", "folded").graph


@pytest.fixture(scope="module")
def plan() -> LaunchPlan:
    return golden_sample("golden_set3", "f32", "folded").plan


def _with_act(plan: LaunchPlan, **fields: Any) -> LaunchPlan:
    return replace(plan, programs={**plan.programs, "act": replace(plan.programs["act"], **fields)})


@pytest.mark.parametrize("side", [(0, 9), (5, 5), (6, 4), (1, 1000), (-1, 9)])
def test_impossible_side_streams_are_refused(plan: LaunchPlan, graph: Graph, side: tuple[int, int]) -> None:
    with pytest.raises(ExportError, match="it must begin first and be joined later"):
        verify_plan(_with_act(plan, side_stream=SideStream(*side)), graph)


def test_a_side_stream_that_is_joined_too_late_is_refused(plan: LaunchPlan, graph: Graph) -> None:
    """The first launch that needs it reads what it writes."""
    act = plan.programs["act"]
    assert act.side_stream is not None
    name = act.launches[act.side_stream.join].name
    with pytest.raises(ExportError, match=rf"launch {name}: key_proprio shares bytes .* which runs beside it"):
        verify_plan(_with_act(plan, side_stream=replace(act.side_stream, join=act.side_stream.join + 1)), graph)


def test_memory_of_the_side_stream_is_nobody_s_until_it_is_joined(plan: LaunchPlan, graph: Graph) -> None:
    """A launch beside it may not write where the side stream reads, nor lie where its own buffers are dead."""
    act = plan.programs["act"]
    assert act.side_stream is not None
    apart = {
        access.buffer.name: access.buffer
        for launch in act.launches[: act.side_stream.launches]
        for access in accesses(launch, plan, act)
        if access.buffer is not None and access.buffer.space == "arena"
    }
    written = [
        address.buffer
        for launch in act.launches[act.side_stream.launches : act.side_stream.join]
        for address in launch.arguments[-1:]
        if address.buffer is not None and act.buffers[address.buffer].name not in apart
    ]
    for taken in apart.values():
        buffers = list(act.buffers)
        buffers[written[0]] = replace(buffers[written[0]], offset=taken.offset)
        with pytest.raises(ExportError, match=r"shares? bytes"):
            verify_plan(_with_act(plan, buffers=tuple(buffers), arena_bytes=act.arena_bytes + (1 << 20)), graph)


def _outcome(plan: LaunchPlan, program: ProgramPlan, launches: Sequence[Launch]) -> list[tuple[str, Array]]:
    """What every launch reads, and memory at the end, if a launch writes a mark of itself and of what it reads."""
    memory = {"arena": np.zeros(program.arena_bytes, np.int64)}
    memory |= {buffer.name: np.zeros(buffer.num_bytes or 0, np.int64) for buffer in program.buffers}

    def places(launch: Launch, mode: str) -> Iterator[Array]:
        for access in accesses(launch, plan, program):
            if access.argument.mode == mode and access.buffer is not None:
                shared = access.buffer.space == "arena"
                start = access.buffer.offset if shared else 0
                yield memory["arena" if shared else access.buffer.name][start + access.start : start + access.end]

    read: list[tuple[str, Array]] = []
    for launch in launches:
        sums = np.array([place @ np.arange(1, len(place) + 1) for place in places(launch, "r")])
        read.append((launch.name, sums))
        for place in places(launch, "w"):
            place[:] = hash((launch.name, *sums.tolist())) % 1_000_003
    return [*sorted(read, key=lambda entry: entry[0]), *memory.items()]


def test_what_is_accepted_gives_the_same_in_every_order(plan: LaunchPlan, graph: Graph) -> None:
    """Random side streams, and buffers moved over others: the verifier refuses where two orders give other bytes."""
    draw, act = random.Random(3), plan.programs["act"]
    assert act.side_stream is not None
    arena = [index for index, buffer in enumerate(act.buffers) if buffer.space == "arena"]
    accepted = refused_races = 0
    for _ in range(CHANGED_PLANS):
        first = draw.randrange(1, 8)
        side = SideStream(first, first + draw.randrange(1, 14))
        buffers = list(act.buffers)
        if draw.random() < 0.4:
            moved, over = draw.choice(arena), draw.choice(arena)
            end = buffers[over].offset + (buffers[moved].num_bytes or 0)
            if end <= act.arena_bytes:
                buffers[moved] = replace(buffers[moved], offset=buffers[over].offset)
        changed = _with_act(plan, side_stream=side, buffers=tuple(buffers))
        program = changed.programs["act"]
        try:
            verify_plan(changed, graph)
        except ExportError as error:
            refused_races += "which runs beside it" in str(error)
            continue
        accepted += 1
        one, *others = (_outcome(changed, program, ordered_launches(program, order)) for order in ORDERS)
        for other in others:
            assert all(a == b and np.array_equal(x, y) for (a, x), (b, y) in zip(one, other, strict=True))
    assert accepted > 20 and refused_races > 20


def test_the_side_stream_has_a_switch(graph: Graph, plan: LaunchPlan) -> None:
    """Without it the same tasks run in the graph's own order, one after the other."""
    without = lower(graph, side_stream=False)
    verify_plan(without, graph)
    assert without.programs["act"].side_stream is None and plan.programs["act"].side_stream is not None
    assert {planned.task.kernel for planned in without.tasks} == {planned.task.kernel for planned in plan.tasks}
    names = [sorted(launch.name for launch in each.programs["act"].launches) for each in (without, plan)]
    assert names[0] == names[1]
    given = golden_sample("golden_set3", "f32", "folded")
    assert np.array_equal(given.planned(without, "reference"), given.planned(plan, "reference"))
