# SPDX-License-Identifier: Apache-2.0
"""FLOPs and bytes of a graph, counted from its ops. Products only: 2 a multiply-add, as the published figures count."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lightwam.export.check import op_operands
from lightwam.export.graph import Graph, Op, Program, Stage, TensorType
from lightwam.export.ops import OPS, Operands, operands_bytes


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
    """Costs of one chunk. `constant_bytes`: constants of `act`, each once; `product_weights`: numbers in products."""

    ops: tuple[OpCost, ...]
    constant_bytes: int
    product_weights: int

    @property
    def flops(self) -> int:
        return sum(op.flops for op in self.ops)

    def by_stage(self) -> dict[Stage, int]:
        """Stage -> FLOPs, in order of execution."""
        totals: dict[Stage, int] = {}
        for op in self.ops:
            totals[op.stage] = totals.get(op.stage, 0) + op.flops
        return totals


def graph_costs(graph: Graph, text_rows: int | None = None) -> GraphCosts:
    """Count `act`. `text_rows`: length of the instruction; None counts all context rows."""
    program = graph.programs["act"]
    ops = tuple(_op_cost(graph, program, op, text_rows) for op in program.ops)
    used = {name for op in program.ops for name in op.constants.values()}
    weights = {op.constants["weight"] for op in program.ops if OPS[op.op].product}
    return GraphCosts(
        ops,
        sum(graph.constants[name].type.num_bytes for name in used),
        sum(_size(graph.constants[name].type) for name in weights),
    )


def _size(tensor: TensorType) -> int:
    rows, columns = tensor.matrix
    return rows * columns


def _op_cost(graph: Graph, program: Program, op: Op, text_rows: int | None) -> OpCost:
    operands = op_operands(op, program, graph.constants)
    if op.op == "cross_attention" and text_rows is not None:
        operands = _shorter_text(operands, text_rows)
    return OpCost(op.name, op.op, op.stage, OPS[op.op].flops(operands), operands_bytes(operands))


def _shorter_text(operands: Operands, text_rows: int) -> Operands:
    """Cross-attention over the keys that an instruction of `text_rows` rows leaves: one zero row for the rest."""
    length, width = operands.inputs["key_text"].shape
    short = TensorType(operands.inputs["key_text"].dtype, (min(text_rows + 1, length), width))
    return replace(operands, inputs={**operands.inputs, "key_text": short, "value_text": short})
