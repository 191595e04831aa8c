# SPDX-License-Identifier: Apache-2.0
"""The side stream of a program: what needs no camera runs beside what does (docs/reference/launch-plan.md, section 2).

Its launches read the state, the instruction and weights; they are bound by memory, which the launches beside them
(convolutions of the VAE, bound by matmuls) have to spare. All that is known of side streams stands in this file;
`lower(graph, side_stream=False)` switches them off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lightwam.errors import ExportError
from lightwam.gpu.nodes import Nodes
from lightwam.gpu.plan import LaunchPlan, ProgramPlan, SideStream, Touch, accesses
from lightwam.gpu.tasks import Call, ValueOperand

#: A side stream has at least so many launches, and as many run beside it: parting and joining cost about two.
LEAST_LAUNCHES = 3
LATENTS = "latents"
T = TypeVar("T")


def find_side_stream(nodes: Nodes, calls: Sequence[Call]) -> tuple[list[int], SideStream | None]:
    """An order of the calls, as indices, that begins with the side stream; the order as it is where none pays.

    The side stream: all calls that nothing of the cameras reaches. It ends before the first call that needs it.
    """
    touched = [list(_touched(nodes, call)) for call in calls]
    observed = nodes.frames | {LATENTS}
    side: list[int] = []
    rest: list[int] = []
    reached: dict[str, list[Touch]] = {}  # what the calls of `rest` touch, by block
    apart: dict[str, list[Touch]] = {}  # what those of `side` touch
    for index, ranges in enumerate(touched):
        late = any(one.block in observed or _conflicts(one, reached) for one in ranges)
        (rest if late else side).append(index)
        for one in ranges:
            (reached if late else apart).setdefault(one.block, []).append(one)
    beside = next((at for at, index in enumerate(rest) if any(_conflicts(one, apart) for one in touched[index])), 0)
    if min(len(side), beside) < LEAST_LAUNCHES:
        return list(range(len(calls))), None
    return side + rest, SideStream(len(side), len(side) + beside)


def _conflicts(one: Touch, others: dict[str, list[Touch]]) -> bool:
    """Whether it must keep its order with one of the others, listed by block."""
    return any(one.conflicts(other) for other in others.get(one.block, ()))


def _touched(nodes: Nodes, call: Call) -> Iterator[Touch]:
    """Values that a call reads or writes, each base as a block; a camera's frame, of unknown size, as no byte."""
    for argument, operand in zip(call.task.arguments, call.operands, strict=True):
        if isinstance(operand, ValueOperand):
            place = nodes.place(operand.value)
            start = place.offset + operand.offset
            end = start + (argument.num_bytes or 0)
            yield Touch(argument.name, place.base, start, end, argument.mode == "w")


def parts(stream: SideStream | None, launches: Sequence[T]) -> tuple[Sequence[T], Sequence[T], Sequence[T]]:
    """The side stream's launches, those beside it, and the rest (all of them where there is no side stream)."""
    count, join = (0, 0) if stream is None else (stream.launches, stream.join)
    return launches[:count], launches[count:join], launches[join:]


def last_use(stream: SideStream | None, index: int) -> int:
    """Until which launch the memory that launch `index` touches is in use: the side stream's until it is joined."""
    return stream.join - 1 if stream is not None and index < stream.launches else index


def verify_side_stream(plan: LaunchPlan, program: ProgramPlan) -> None:
    """Raise `ExportError` if what runs beside a side stream touches what the side stream writes.

    What the side stream reads is read-only here, or written by itself before: so nothing beside it writes that either.
    """
    stream, total = program.side_stream, len(program.launches)
    if stream is None:
        return
    if not 0 < stream.launches < stream.join <= total:
        place = f"{stream.launches} launches beside those up to {stream.join} of {total}"
        raise ExportError(f"side stream of {place}: it must begin first and be joined later: lower the graph anew")
    side, beside, _ = parts(stream, program.launches)
    written = [(launch, access) for launch in side for access in accesses(launch, plan, program) if access.writes]
    for launch in beside:
        for access in accesses(launch, plan, program):
            for other, touched in written:
                if access.touch().conflicts(touched.touch()):
                    names = f"{access.argument.name} shares bytes with {touched.argument.name} of {other.name}"
                    raise ExportError(f"launch {launch.name}: {names}, which runs beside it: join before it")


@dataclass(frozen=True)
class LaunchSeconds:
    """A launch's predicted time if it runs alone: the longer of its matmuls' and its bytes'."""

    matmul: float
    memory: float

    @property
    def alone(self) -> float:
        return max(self.matmul, self.memory)


def added_seconds(stream: SideStream | None, launches: Sequence[LaunchSeconds]) -> tuple[float, ...]:
    """What each launch adds to a program's time, in order: a side stream's only what does not hide.

    Its bytes move while the launches beside it leave the memory idle (their matmuls take longer than their bytes); the
    rest of its time is spread over its launches. Its matmuls hide nowhere.
    """
    side, beside, _ = parts(stream, launches)
    alone = [launch.alone for launch in launches]
    if not side:
        return tuple(alone)
    spare = sum(launch.alone - launch.memory for launch in beside)
    hideable = sum(launch.alone - launch.matmul for launch in side)
    shown = 1 - min(spare, hideable) / sum(alone[: len(side)])
    return (*(seconds * shown for seconds in alone[: len(side)]), *alone[len(side) :])
