# SPDX-License-Identifier: Apache-2.0
"""FLOPs and bytes of a graph, counted from its ops. Matmuls only: 2 a multiply-add, as the published figures count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lightwam.engine.graph import Graph, Op, Program, Stage, TensorType
from lightwam.engine.ops import OPS
from lightwam.engine.verify import op_operands

#: Rows of an instruction where an engine knows none: a sentence or two.
UNKNOWN_TEXT_ROWS = 32


def assumed_text_rows(known: Iterable[int], context_rows: int) -> int:
    """The instruction length for which costs are counted: the longest of the known ones, 32 rows where none is."""
    return max(known, default=min(UNKNOWN_TEXT_ROWS, context_rows))


def text_keys(text_rows: int, context_rows: int) -> int:
    """Text keys of a cross-attention: the instruction's rows, and one padded row for the rest (saving 7)."""
    return min(text_rows + 1, context_rows)


@dataclass(frozen=True)
class OpCost:
    """One op of `act`."""

    name: str
    op: str
    stage: Stage
    flops: int
    num_bytes: int


@dataclass(frozen=True)
class GraphCosts:
    """Costs of one chunk. `constant_bytes`: constants of `act`, each once."""

    ops: tuple[OpCost, ...]
    constant_bytes: int

    @property
    def flops(self) -> int:
        return sum(op.flops for op in self.ops)

    def by_stage(self) -> dict[Stage, int]:
        """Stage -> FLOPs, in order of execution."""
        totals: dict[Stage, int] = {}
        for op in self.ops:
            totals[op.stage] = totals.get(op.stage, 0) + op.flops
        return totals


def counted_text_rows(graph: Graph) -> int:
    """The instruction length for which a policy's costs are counted: its longest known one, 32 rows where none is."""
    known = (graph.constants[entry["context"]].type.shape[0] for entry in graph.policy["instructions"])
    return assumed_text_rows(known, graph.policy["context_rows"])


def graph_costs(graph: Graph, text_rows: int | None = None) -> GraphCosts:
    """Count `act`. `text_rows`: length of the instruction; None counts all context rows."""
    program = graph.programs["act"]
    ops = tuple(_op_cost(graph, program, op, text_rows) for op in program.ops)
    used = {name for op in program.ops for name in op.constants.values()}
    return GraphCosts(ops, sum(graph.constants[name].type.num_bytes for name in used))


def _op_cost(graph: Graph, program: Program, op: Op, text_rows: int | None) -> OpCost:
    spec, operands = OPS[op.op], op_operands(op, program, graph.constants)
    if text_rows is not None:  # the keys that a shorter instruction leaves: one zero row for the rest
        shorter = {
            role: TensorType(tensor.dtype, (text_keys(text_rows, tensor.shape[0]), *tensor.shape[1:]))
            for role, tensor in operands.inputs.items()
            if role in spec.text_inputs
        }
        operands = replace(operands, inputs={**operands.inputs, **shorter})
    return OpCost(op.name, op.op, op.stage, spec.flops(operands), spec.num_bytes(operands))
