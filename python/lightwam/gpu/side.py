# SPDX-License-Identifier: Apache-2.0
"""The side branch of a program: what needs no camera runs beside what does (docs/reference/launch-plan.md, section 2).

Its launches read the state, the instruction and weights; they are bound by memory, which the launches beside them
(convolutions of the VAE, bound by products) have to spare.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightwam.gpu.nodes import Nodes
from lightwam.gpu.plan import Side
from lightwam.gpu.tasks import Call, ValueOperand

#: A branch has at least so many launches, and as many run beside it: parting and meeting cost about two.
LEAST_LAUNCHES = 3
LATENTS = "latents"


@dataclass(frozen=True)
class _Bytes:
    """Bytes [start, end) of a value that is part of no other, as a launch touches them."""

    base: str
    start: int
    end: int
    written: bool

    def conflicts(self, other: _Bytes) -> bool:
        """Whether the two must keep their order."""
        shared = self.base == other.base and self.start < other.end and other.start < self.end
        return shared and (self.written or other.written)


def side_branch(nodes: Nodes, calls: Sequence[Call]) -> tuple[list[int], Side | None]:
    """An order of the calls, as indices, that begins with the side branch; the order as it is where none pays.

    The branch: all calls that nothing of the cameras reaches. It ends before the first call that needs it.
    """
    touched = [list(_touched(nodes, call)) for call in calls]
    observed = nodes.frames | {LATENTS}
    side: list[int] = []
    rest: list[int] = []
    reached: dict[str, list[_Bytes]] = {}  # what later calls have written, by base
    for index, accesses in enumerate(touched):
        late = any(one.base in observed or _conflicts(one, reached) for one in accesses)
        (rest if late else side).append(index)
        if late:
            for one in accesses:
                reached.setdefault(one.base, []).append(one)
    apart: dict[str, list[_Bytes]] = {}
    for index in side:
        for one in touched[index]:
            apart.setdefault(one.base, []).append(one)
    beside = next((at for at, index in enumerate(rest) if any(_conflicts(one, apart) for one in touched[index])), 0)
    if min(len(side), beside) < LEAST_LAUNCHES:
        return list(range(len(calls))), None
    return side + rest, Side(len(side), len(side) + beside)


def _conflicts(one: _Bytes, others: dict[str, list[_Bytes]]) -> bool:
    return any(one.conflicts(other) for other in others.get(one.base, ()))


def _touched(nodes: Nodes, call: Call) -> Iterator[_Bytes]:
    """Values that a call reads or writes; a camera's frame, of unknown size, as no byte."""
    for argument, operand in zip(call.task.arguments, call.operands, strict=True):
        if isinstance(operand, ValueOperand):
            place = nodes.place(operand.value)
            start = place.offset + operand.offset
            yield _Bytes(place.base, start, start + (argument.num_bytes or 0), argument.mode == "w")
