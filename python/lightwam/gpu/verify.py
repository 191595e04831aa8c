# SPDX-License-Identifier: Apache-2.0
"""Verification of a launch plan by the rules of docs/reference/launch-plan.md that need no machine code."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from lightwam.engine.graph import ALIGNMENT, PROGRAM_NAMES, Graph
from lightwam.errors import ExportError
from lightwam.gpu.intervals import Intervals
from lightwam.gpu.nodes import ADDRESS_ALIGNMENT
from lightwam.gpu.plan import (
    ARENA_ALIGNMENT,
    SPACES,
    WEIGHT_ALIGNMENT,
    Buffer,
    Launch,
    LaunchPlan,
    ProgramPlan,
    accesses,
)
from lightwam.gpu.side import verify_side_stream

FRAMES = "frames."


def verify_plan(plan: LaunchPlan, graph: Graph) -> None:
    """Raise `ExportError`, naming the tensor, buffer or launch, if the plan breaks a rule."""
    if set(plan.programs) != set(PROGRAM_NAMES):
        raise ExportError(f"programs are {sorted(plan.programs)}: they must be {sorted(PROGRAM_NAMES)}")
    weights, instruction = _verify_weights(plan, graph), Intervals()
    for name in PROGRAM_NAMES:
        program = plan.programs[name]
        names = Counter(buffer.name for buffer in program.buffers)
        for buffer in program.buffers:
            if names[buffer.name] > 1:
                raise _wrong(f"buffer {buffer.name} of {name} is there twice")
            _verify_buffer(buffer, name, program, graph)
        for launch in program.launches:
            _verify_launch(launch, plan, program)
        _verify_reads(plan, name, weights, instruction, graph)
        _verify_lifetimes(plan, name)
        verify_side_stream(plan, program)


def _wrong(fault: str) -> ExportError:
    return ExportError(f"{fault}: lower the graph anew")


def _verify_weights(plan: LaunchPlan, graph: Graph) -> Intervals:
    """Their places; returns the bytes of the block that they fill."""
    end, filled = 0, Intervals()
    for name, offset in sorted(plan.weights.items(), key=lambda item: item[1]):
        constant = graph.constants.get(name) or plan.derived.get(name)
        if constant is None or offset % WEIGHT_ALIGNMENT or offset < end:
            raise _wrong(f"weight {name}: unknown, or offset {offset} is unaligned or taken")
        end = offset + constant.type.num_bytes
        filled.add(offset, end)
    if end > plan.weights_bytes:
        raise _wrong(f"weights end at {end}, after their block of {plan.weights_bytes} bytes")
    return filled


def _verify_buffer(buffer: Buffer, program_name: str, program: ProgramPlan, graph: Graph) -> None:
    if buffer.space not in SPACES:
        raise ExportError(f"buffer {buffer.name}: space {buffer.space!r} is unknown: use one of {SPACES}")
    if buffer.num_bytes is None:
        fits = buffer.space == "input" and buffer.name.startswith(FRAMES) and buffer.offset == 0
    elif buffer.space in ("arena", "instruction"):
        block = program.arena_bytes if buffer.space == "arena" else graph.instruction_bytes
        step = ARENA_ALIGNMENT if buffer.space == "arena" else ALIGNMENT
        fits = buffer.offset >= 0 and buffer.offset % step == 0 and buffer.offset + buffer.num_bytes <= block
    else:
        fits = buffer.offset == 0 and buffer.num_bytes == _bound_bytes(buffer, program_name, graph)
    if not fits:
        place = f"{buffer.num_bytes} bytes at {buffer.offset} of the {buffer.space} space"
        raise _wrong(f"buffer {buffer.name}: {place} do not fit")


def _bound_bytes(buffer: Buffer, program_name: str, graph: Graph) -> int | None:
    """Bytes of what the runtime binds under the buffer's name; None if it binds nothing."""
    program = graph.programs[program_name]
    if buffer.space == "output":
        known = buffer.name in program.outputs.values()
        return program.values[buffer.name].type.num_bytes if known else None
    if buffer.name == "frame_sizes":
        return 8 * len(graph.policy["cameras"])
    value = program.values.get(buffer.name)
    return value.type.num_bytes if value is not None and value.storage == "input" else None


def _verify_launch(launch: Launch, plan: LaunchPlan, program: ProgramPlan) -> None:
    """Extents, alignment, modes, and that nothing written overlaps another argument."""
    if not 0 <= launch.task < len(plan.tasks):
        raise _wrong(f"launch {launch.name}: task {launch.task} of {len(plan.tasks)}")
    arguments = plan.tasks[launch.task].task.arguments
    if len(launch.arguments) != len(arguments):
        given = f"{len(launch.arguments)} addresses for {len(arguments)} arguments"
        raise _wrong(f"launch {launch.name}: {given}")
    for address in launch.arguments:
        if address.buffer is not None and not 0 <= address.buffer < len(program.buffers):
            raise _wrong(f"launch {launch.name}: buffer {address.buffer} is unknown")
    touched = list(accesses(launch, plan, program))
    for access in touched:
        size = plan.weights_bytes if access.buffer is None else access.buffer.num_bytes
        unknown = access.argument.num_bytes is None
        bounded = size is not None and access.start >= 0 and access.end <= size
        inside = size is None and access.start == 0 if unknown else bounded
        writable = access.buffer is not None and access.buffer.space != "input"
        if not inside or access.start % ADDRESS_ALIGNMENT or (access.writes and not writable):
            place = f"bytes {access.start}..{access.end} of {access.block}: outside, unaligned or read-only"
            raise ExportError(f"launch {launch.name}: {access.argument.name} is {place}")
    for one, other in combinations(touched, 2):
        if one.touch().conflicts(other.touch()):
            names = f"{one.argument.name} and {other.argument.name}"
            raise _wrong(f"launch {launch.name}: {names} share bytes and one is written")


def _verify_reads(plan: LaunchPlan, name: str, weights: Intervals, instruction: Intervals, graph: Graph) -> None:
    """Every byte is written before it is read, through the same buffer, and the output is written whole.

    `instruction` holds what `set_instruction` writes there, through any buffer; `act` only reads it.
    """
    program = plan.programs[name]
    written = {buffer.name: Intervals() for buffer in program.buffers}
    for given in program.buffers:
        if given.space == "input":
            written[given.name].add(0, given.num_bytes or 0)
    for launch in program.launches:
        touched = list(accesses(launch, plan, program))
        for access in (access for access in touched if not access.writes):
            buffer, start, end = access.buffer, access.start, access.end
            known = weights if buffer is None else written[buffer.name]
            if buffer is not None and buffer.space == "instruction" and name == "act":
                known, start, end = instruction, buffer.offset + start, buffer.offset + end
            if not known.covers(start, end):
                place = f"bytes of {access.block} that nothing wrote"
                raise ExportError(f"launch {launch.name}: reads {place}: reorder the launches")
        for access in (access for access in touched if access.writes):
            buffer, start, end = access.buffer, access.start, access.end
            assert buffer is not None, "weights are read-only"
            written[buffer.name].add(start, end)
            if buffer.space == "instruction" and name == "act":
                raise ExportError(f"launch {launch.name}: writes {buffer.name} of the instruction in {name}")
            if buffer.space == "instruction":
                instruction.add(buffer.offset + start, buffer.offset + end)
    outputs = {buffer.name for buffer in program.buffers if buffer.space == "output"}
    for value in graph.programs[name].outputs.values():
        if value not in outputs or not written[value].covers(0, graph.programs[name].values[value].type.num_bytes):
            raise _wrong(f"output {value} is not written whole")


def _verify_lifetimes(plan: LaunchPlan, name: str) -> None:
    """No two buffers of a space alive at once share bytes.

    A buffer lives from its first to its last access; what `set_instruction` writes of the instruction stays for `act`.
    """
    program = plan.programs[name]
    spaces = ("arena", "instruction") if name == "set_instruction" else ("arena",)
    spans: dict[str, tuple[Buffer, int, int]] = {}
    for index, launch in enumerate(program.launches):
        for access in accesses(launch, plan, program):
            if access.buffer is not None and access.buffer.space in spaces:
                first = spans.get(access.buffer.name, (access.buffer, index, index))[1]
                last = index if access.buffer.space == "arena" else len(program.launches)
                spans[access.buffer.name] = (access.buffer, first, last)
    for (one, start, end), (other, other_start, other_end) in combinations(spans.values(), 2):
        together = one.space == other.space and start <= other_end and other_start <= end
        one_end, other_bytes = one.offset + (one.num_bytes or 0), other.offset + (other.num_bytes or 0)
        if together and one.offset < other_bytes and other.offset < one_end:
            raise _wrong(f"buffers {one.name} and {other.name} share bytes while both live")
