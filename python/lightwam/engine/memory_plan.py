# SPDX-License-Identifier: Apache-2.0
"""Memory plan: where each value lives in the arena and in the instruction's cache block.

Values that share bytes on purpose (a reshape and its input; an output in place of an input that is read for the last
time) form one buffer. Buffers are placed largest first at the lowest offset that is free during their whole life.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lightwam.engine.graph import ALIGNMENT, Graph, Op, Program, Value
from lightwam.engine.ops import OPS
from lightwam.errors import ExportError


@dataclass
class Buffer:
    """Bytes that one or more values share; alive from op `start` to op `end`, both included."""

    size: int
    start: int
    end: int
    offset: int = -1

    def meets(self, other: Buffer) -> bool:
        """Whether both are alive during some op."""
        return self.start <= other.end and other.start <= self.end


def align(size: int) -> int:
    """`size` rounded up to the arena's alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def plan_graph(graph: Graph) -> Graph:
    """The graph with every offset, both arena sizes and the size of an instruction's cache block."""
    offsets, instruction_bytes = _plan_instruction(graph)
    programs = {name: _plan_program(program, offsets) for name, program in graph.programs.items()}
    return replace(graph, programs=programs, instruction_bytes=instruction_bytes)


def _plan_instruction(graph: Graph) -> tuple[dict[str, int], int]:
    """Cache values one after the other: all of them live as long as the instruction."""
    offsets: dict[str, int] = {}
    end = 0
    for program in graph.programs.values():
        for value in program.values.values():
            if value.storage == "instruction" and value.name not in offsets:
                offsets[value.name] = end
                end = align(end + value.type.num_bytes)
    return offsets, end


def _plan_program(program: Program, instruction_offsets: Mapping[str, int]) -> Program:
    buffers = _share_buffers(program)
    arena_bytes = place(list({id(buffer): buffer for buffer in buffers.values()}.values()))
    values: dict[str, Value] = {}
    for name, value in program.values.items():
        if value.storage == "arena":
            value = replace(value, offset=buffers[name].offset)
        elif value.storage == "instruction":
            value = replace(value, offset=instruction_offsets[name])
        values[name] = value
    return replace(program, values=values, arena_bytes=arena_bytes)


def _share_buffers(program: Program) -> dict[str, Buffer]:
    """Arena value -> its buffer."""
    last_reads = program.last_reads()
    buffers: dict[str, Buffer] = {}
    for index, op in enumerate(program.ops):
        for output in op.outputs.values():
            value = program.values[output]
            if value.storage != "arena":
                continue
            buffer = _inherited_buffer(program, op, index, value, buffers)
            if buffer is None:
                buffer = Buffer(align(value.type.num_bytes), index, index)
            buffer.end = max(buffer.end, last_reads.get(output, index))
            buffers[output] = buffer
    return buffers


def _inherited_buffer(
    program: Program, op: Op, index: int, output: Value, buffers: Mapping[str, Buffer]
) -> Buffer | None:
    """The buffer of the input whose bytes the output takes over, if there is one."""
    if OPS[op.op].view:
        if op.inputs["x"] not in buffers:
            raise ExportError(f"op {op.name}: {op.op} of {op.inputs['x']}, which is not in the arena: copy it first")
        return buffers[op.inputs["x"]]
    read = [buffers.get(name) for name in op.inputs.values()]
    for role in OPS[op.op].in_place_roles():
        name = op.inputs.get(role)
        buffer = buffers.get(name) if name is not None else None
        if name is None or buffer is None or program.values[name].type != output.type:
            continue
        if buffer.end == index and sum(other is buffer for other in read) == 1:
            return buffer
    return None


def place(buffers: list[Buffer]) -> int:
    """Set every offset, so that buffers alive together share no byte; returns the size of the arena."""
    placed: list[Buffer] = []
    end = 0
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.start)):
        offset = 0
        for other in placed:  # kept in order of offset
            if other.meets(buffer):
                if other.offset - offset >= buffer.size:
                    break
                offset = max(offset, other.offset + other.size)
        buffer.offset = offset
        placed.append(buffer)
        placed.sort(key=lambda b: b.offset)
        end = max(end, offset + buffer.size)
    return end
