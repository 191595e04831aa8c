# SPDX-License-Identifier: Apache-2.0
"""Verification of a planned graph by the rules of engine-format.md, before it is written and after it is read."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping

from lightwam.engine.graph import ALIGNMENT, PROGRAM_NAMES, STAGES, Constant, Graph, Op, Program, Value, matrix_view
from lightwam.engine.ops import OPS, Operands
from lightwam.engine.ops.attention import probabilities
from lightwam.engine.verify_policy import check_policy
from lightwam.errors import ExportError

MOST_OPERATIONS = 10**14
OPERATIONS_PER_ELEMENT = 16


def op_operands(op: Op, program: Program, constants: Mapping[str, Constant]) -> Operands:
    """The types an op is applied to."""
    return Operands(
        op.op,
        {role: program.values[name].type for role, name in op.inputs.items()},
        {role: constants[name].type for role, name in op.constants.items()},
        op.attrs,
        {role: program.values[name].type for role, name in op.outputs.items()},
    )


def check_graph(graph: Graph) -> None:
    """Raise `ExportError`, naming the op or value, if the graph breaks a rule of the format.

    What a graph and its policy must have in common is left out where the policy is empty, as of a part of a graph.
    """
    if set(graph.programs) != set(PROGRAM_NAMES):
        raise ExportError(f"programs are {sorted(graph.programs)}: they must be {sorted(PROGRAM_NAMES)}")
    written: set[str] = set()  # the instruction's cache after set_instruction
    for name in PROGRAM_NAMES:
        program = graph.programs[name]
        _check_ops(graph, program)
        written = _check_order(program, written)
        _check_offsets(program, graph.instruction_bytes)
        _check_views(program)
        _check_lifetimes(program)
        _check_work(graph, program, name)
    if graph.policy:
        check_policy(graph)


def _check_ops(graph: Graph, program: Program) -> None:
    for op in program.ops:
        missing = [name for name in (*op.inputs.values(), *op.outputs.values()) if name not in program.values]
        missing += [name for name in op.constants.values() if name not in graph.constants]
        if missing:
            raise ExportError(f"op {op.name}: {missing[0]} is neither a value nor a constant: add it to the graph")
        if op.op not in OPS or op.stage not in STAGES:
            raise ExportError(f"op {op.name}: {op.op!r} in stage {op.stage!r} is unknown: use the ops of the table")
        operands = op_operands(op, program, graph.constants)
        shapes = OPS[op.op].check(operands)
        view = tuple if OPS[op.op].exact else matrix_view
        made = {role: view(shape) for role, shape in shapes.items()}
        if made != {role: view(tensor.shape) for role, tensor in operands.declared.items()}:
            declared = {role: tensor.shape for role, tensor in operands.declared.items()}
            raise ExportError(f"op {op.name}: writes {shapes}, declared {declared}: build the graph anew")


def check_usual_forms(graph: Graph) -> None:
    """Raise `ExportError` on an op in a form of the format that our exporter never writes, which translators to GPUs
    and ONNX do not know: the CPU runs it.
    """
    for program in graph.programs.values():
        for op in program.ops:
            operands = op_operands(op, program, graph.constants)
            made = OPS[op.op].shape(operands)
            usual = all(made[role] == tensor.shape for role, tensor in operands.declared.items())
            if op.op in ("self_attention", "cross_attention", "cross_attention_folded", "rms_norm_rope"):
                usual &= all(len(tensor.shape) <= 2 for tensor in operands.inputs.values())
            elif op.op == "layer_norm":
                usual &= len(operands.constants) != 1
            elif op.op in ("add", "subtract"):
                usual &= bool(operands.inputs) and operands.operand("b").shape[-2:] in (
                    operands.operand("a").shape[-2:],
                    (1, made["y"][-1]),
                )
            elif op.op == "learned_query_pool":
                usual &= operands.constants["scores"].dtype == "f32"
            residual = operands.inputs.get("residual")
            if not usual or (residual is not None and residual.shape != made["y"]):
                raise ExportError(f"op {op.name}: {op.op} in a form that only the CPU runs: export the policy again")


def _check_work(graph: Graph, program: Program, name: str) -> None:
    """A bound on what one chunk or one instruction computes, which no policy comes near (csrc/engine/work.cpp)."""
    total = 0
    for op in program.ops:
        operands = op_operands(op, program, graph.constants)
        if not OPS[op.op].view:
            groups = (operands.inputs, operands.constants, operands.declared)
            elements = sum(math.prod(tensor.shape) for group in groups for tensor in group.values())
            total += OPS[op.op].flops(operands) + OPERATIONS_PER_ELEMENT * (elements + probabilities(operands))
    if total > MOST_OPERATIONS:
        raise ExportError(f"program {name} needs {total:.3g} operations: at most {MOST_OPERATIONS:.3g} are run")


def _check_views(program: Program) -> None:
    for op in (op for op in program.ops if OPS[op.op].view):
        x, y = program.values[op.inputs["x"]], program.values[op.outputs["y"]]
        if x.storage != "arena" or (x.storage, x.offset) != (y.storage, y.offset):
            raise ExportError(f"op {op.name}: {y.name} does not lie on the bytes of {x.name} in the arena: plan again")


def _check_order(program: Program, instruction: set[str]) -> set[str]:
    """Every value written once and before it is read; returns the names of the cache values known afterwards."""
    known = {value.name for value in program.values.values() if value.storage == "input"} | instruction
    for op in program.ops:
        for name in op.inputs.values():
            if name not in known:
                raise ExportError(f"op {op.name}: reads {name} before it is written: reorder the ops")
        for name in op.outputs.values():
            if name in known:
                raise ExportError(f"op {op.name}: writes {name} a second time: rename its output")
            known.add(name)
    for name in program.outputs.values():
        if name not in known:
            raise ExportError(f"program output {name} is never written: add the op that writes it")
    return {name for name in known if name in instruction or program.values[name].storage == "instruction"}


def _check_offsets(program: Program, instruction_bytes: int) -> None:
    for value in program.values.values():
        if value.storage == "input":
            continue
        block = program.arena_bytes if value.storage == "arena" else instruction_bytes
        offset = value.offset
        if offset is None or offset < 0 or offset % ALIGNMENT or offset + value.type.num_bytes > block:
            raise ExportError(
                f"value {value.name}: offset {offset} does not fit its block of {block} bytes: plan again"
            )


class _Blocks:
    """What lives in a block of memory: value (the first of its views) by offset. No two share a byte."""

    def __init__(self) -> None:
        self._offsets: list[int] = []
        self._values: list[Value] = []

    def sharing(self, value: Value) -> list[Value]:
        """Those that share bytes with `value`."""
        begin = _offset(value)
        first = max(bisect_right(self._offsets, begin) - 1, 0)
        found = self._values[first : bisect_left(self._offsets, begin + value.type.num_bytes)]
        return [other for other in found if _offset(other) + other.type.num_bytes > begin]

    def add(self, value: Value) -> None:
        at = bisect_left(self._offsets, _offset(value))
        self._offsets.insert(at, _offset(value))
        self._values.insert(at, value)

    def remove(self, value: Value) -> None:
        at = bisect_left(self._offsets, _offset(value))
        if at < len(self._values) and self._values[at] == value:
            del self._offsets[at], self._values[at]


def _check_lifetimes(program: Program) -> None:
    """No two values alive at once share bytes, but for views and outputs in place."""
    roots, last = _view_roots(program), _last_uses(program)
    blocks = {"arena": _Blocks(), "instruction": _Blocks()}
    for index, op in enumerate(program.ops):
        for name in () if OPS[op.op].view else op.outputs.values():
            value = program.values[name]
            live = blocks[value.storage]
            for other in live.sharing(value):
                if last[other.name] != index or not _in_place(op, other, value, roots, program):
                    raise ExportError(f"values {other.name} and {name} share bytes while both live: plan again")
                live.remove(other)
            live.add(value)
        for name in (*op.inputs.values(), *op.outputs.values()):
            root = program.values[roots[name]]
            if root.storage in blocks and last[root.name] == index:
                blocks[root.storage].remove(root)


def _offset(value: Value) -> int:
    assert value.offset is not None
    return value.offset


def _last_uses(program: Program) -> dict[str, int]:
    """Value -> index of the last op that reads or writes it or a view of it; the number of ops if it stays."""
    roots, last = _view_roots(program), dict.fromkeys(program.values, 0)
    for index, op in enumerate(program.ops):
        for name in (*op.inputs.values(), *op.outputs.values()):
            last[roots[name]] = index
    kept = [value.name for value in program.values.values() if value.storage == "instruction"]
    last.update({roots[name]: len(program.ops) for name in (*program.outputs.values(), *kept)})
    return last


def _in_place(op: Op, value: Value, output: Value, roots: Mapping[str, str], program: Program) -> bool:
    """Whether `op` may write `output` over `value`: read through one role only, a marked one, of the same type."""
    read = [(role, program.values[name]) for role, name in op.inputs.items() if roots[name] == value.name]
    if len(read) != 1 or value.offset != output.offset:
        return False
    (role, operand), *_ = read
    return operand.type == output.type and role in OPS[op.op].in_place_roles()


def _view_roots(program: Program) -> dict[str, str]:
    """Value -> the value whose bytes it is another view of."""
    roots = {name: name for name in program.values}
    for op in program.ops:
        if OPS[op.op].view:
            roots[op.outputs["y"]] = roots[op.inputs["x"]]
    return roots
