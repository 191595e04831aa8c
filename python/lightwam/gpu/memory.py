# SPDX-License-Identifier: Apache-2.0
"""Where everything lies on the device: the block of weights, and the buffers of a program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightwam.engine.graph import Program
from lightwam.engine.memory_plan import Buffer as Lifetime
from lightwam.engine.memory_plan import place
from lightwam.gpu.nodes import Nodes, WeightRows
from lightwam.gpu.plan import ARENA_ALIGNMENT, WEIGHT_ALIGNMENT, Buffer, SideStream, Space
from lightwam.gpu.side import last_use
from lightwam.gpu.tasks import Call, ValueOperand


def place_weights(rows: WeightRows, used: Iterable[str]) -> tuple[dict[str, int], int]:
    """Constant -> offset in the block of weights, in order of use, and the block's size. Rows lie without gaps."""
    offsets: dict[str, int] = {}
    end = 0
    for name in used:
        for member in rows.rows.get(name, (name,)):
            if member not in offsets:
                offsets[member] = end
                end += -(-rows.constants[member].type.num_bytes // WEIGHT_ALIGNMENT) * WEIGHT_ALIGNMENT
    return offsets, end


def place_values(
    nodes: Nodes, program: Program, calls: Sequence[Call], side_stream: SideStream | None
) -> tuple[list[Buffer], dict[str, int], int]:
    """The buffers of a program, value -> index of its buffer, and the size of its arena."""
    spans: dict[str, Lifetime] = {}
    for index, call in enumerate(calls):
        for operand in call.operands:
            if isinstance(operand, ValueOperand):
                base = nodes.place(operand.value).base
                size = -(-nodes.num_bytes(base) // ARENA_ALIGNMENT) * ARENA_ALIGNMENT
                end = last_use(side_stream, index)
                span = spans.setdefault(base, Lifetime(size, index, end))
                span.end = max(span.end, end)
    spaces = {base: _space(base, nodes, program) for base in spans}
    arena_bytes = place([span for base, span in spans.items() if spaces[base] == "arena"])
    buffers: list[Buffer] = []
    for base, span in spans.items():
        num_bytes = nodes.num_bytes(base) or None
        buffers.append(Buffer(base, spaces[base], _offset(base, spaces[base], span, program), num_bytes))
    return buffers, {buffer.name: index for index, buffer in enumerate(buffers)}, arena_bytes


def _space(base: str, nodes: Nodes, program: Program) -> Space:
    if base in nodes.frames:
        return "input"
    if base in program.outputs.values():
        return "output"
    return program.values[base].storage if base in program.values else "arena"


def _offset(base: str, space: Space, span: Lifetime, program: Program) -> int:
    if space == "arena":
        return span.offset
    if space == "instruction":
        offset = program.values[base].offset
        assert offset is not None, "the graph is planned before it is lowered"
        return offset
    return 0
