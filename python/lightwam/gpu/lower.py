# SPDX-License-Identifier: Apache-2.0
"""Graph -> launch plan: simplify, fuse, order, make tasks, part a branch, place everything (launch-plan.md)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lightwam.engine.dtypes import Array
from lightwam.engine.graph import PROGRAM_NAMES, Constant, Graph, TensorType
from lightwam.errors import ExportError
from lightwam.gpu import fuse_attention, fuse_norms, fuse_rows
from lightwam.gpu.memory import place_values, place_weights
from lightwam.gpu.nodes import Node, Nodes, WeightRows
from lightwam.gpu.plan import (
    Address,
    BufferAddress,
    Launch,
    LaunchPlan,
    PlannedTask,
    ProgramPlan,
    Side,
    WeightAddress,
)
from lightwam.gpu.side import side_branch
from lightwam.gpu.simplify import SIMPLIFICATIONS, sum_name
from lightwam.gpu.tasks import Call, Operand, WeightOperand, make_call
from lightwam.kernels.task import Task

Fusion = Callable[[Nodes], None]

#: In order: what has become one step early is what later fusions see.
FUSIONS: tuple[Fusion, ...] = (
    fuse_norms.affine_chain,
    fuse_norms.addition_in_norm,
    fuse_attention.qkv_in_one_product,
    fuse_rows.products_of_one_row,
    fuse_norms.layer_norm_in_matvec,
    fuse_norms.rounding_in_matvec,
    fuse_rows.pools_in_batches,
    fuse_rows.single_rows_side_by_side,
    fuse_rows.like_rows_in_batches,
    fuse_norms.norm_with_rounding,
    fuse_norms.rounding_on_load,
    fuse_attention.query_norm_in_cross_attention,
    fuse_norms.layer_norm_on_load,
    fuse_norms.norm_in_convolution,
)


@dataclass(frozen=True)
class _Lowered:
    """A program's nodes in their final order, and what each launches."""

    nodes: Nodes
    order: tuple[Node, ...]
    calls: tuple[Call, ...]
    side: Side | None


def lower(graph: Graph, fusions: Sequence[Fusion] = FUSIONS) -> LaunchPlan:
    """The launch plan of a planned graph, without machine code. No weight is loaded.

    Raises `ExportError` for an op that no kernel can do.
    """
    derived = _weight_sums(graph)
    rows = WeightRows({**graph.constants, **derived})
    lowered = {name: _lower_program(graph, name, rows, fusions) for name in PROGRAM_NAMES}
    offsets, weights_bytes = place_weights(rows, _used_weights(lowered.values()))
    tasks: dict[Hashable, int] = {}
    planned: list[PlannedTask] = []
    programs: dict[str, ProgramPlan] = {}
    for name, program in lowered.items():
        buffers, indices, arena_bytes = place_values(program.nodes, graph.programs[name], program.calls, program.side)
        launches: list[Launch] = []
        for node, call in zip(program.order, program.calls, strict=True):
            key = _identity(call.task)
            if key not in tasks:
                tasks[key] = len(planned)
                planned.append(PlannedTask(node.name, call.task))
            addresses = tuple(_address(program.nodes, operand, offsets, indices) for operand in call.operands)
            launches.append(Launch(node.name, node.stage, tasks[key], addresses))
        programs[name] = ProgramPlan(arena_bytes, tuple(buffers), tuple(launches), program.side)
    return LaunchPlan(
        weights_bytes,
        offsets,
        tuple(planned),
        programs,
        {name: constant for name, constant in derived.items() if name in offsets},
    )


def _lower_program(graph: Graph, name: str, rows: WeightRows, fusions: Sequence[Fusion]) -> _Lowered:
    nodes = Nodes(graph, graph.programs[name], rows)
    for rewrite in (*SIMPLIFICATIONS, *fusions):
        rewrite(nodes)
    nodes.sort()
    calls: list[Call] = []
    for node in nodes.nodes:
        try:
            calls.append(make_call(nodes, node))
        except ValueError as error:
            raise ExportError(f"op {node.name}: no kernel computes it ({error}): run this engine on the CPU") from error
    order, side = side_branch(nodes, calls)
    return _Lowered(nodes, tuple(nodes.nodes[i] for i in order), tuple(calls[i] for i in order), side)


def _identity(task: Task) -> Hashable:
    """What tells tasks apart: launches of equal ones share their machine code."""
    return task.kernel, tuple(sorted(task.constants.items())), task.arguments


def _weight_sums(graph: Graph) -> dict[str, Constant]:
    """The sums of every 8-bit weight's rows, as f32, one a row of the matrix view (exact: below 2^24)."""
    eight_bit = [constant for constant in graph.constants.values() if constant.type.dtype == "i8"]
    return {sum_name(weight.name): _row_sums(weight) for weight in eight_bit}


def _row_sums(weight: Constant) -> Constant:
    def load() -> Array:
        return np.asarray(weight.array().sum(axis=-1, dtype=np.int64).ravel(), np.float32)

    return Constant(sum_name(weight.name), TensorType("f32", weight.type.matrix[:1]), load)


def _used_weights(lowered: Iterable[_Lowered]) -> list[str]:
    """Constants in order of their first use, those of `act` first: what a chunk reads lies together."""
    used: dict[str, None] = {}
    for program in reversed(list(lowered)):
        for call in program.calls:
            for operand in call.operands:
                if isinstance(operand, WeightOperand):
                    used.update(dict.fromkeys(operand.names))
    return list(used)


def _address(nodes: Nodes, operand: Operand, offsets: dict[str, int], buffers: dict[str, int]) -> Address:
    if isinstance(operand, WeightOperand):
        return WeightAddress(offsets[operand.names[0]])
    place = nodes.place(operand.value)
    return BufferAddress(buffers[place.base], place.offset + operand.offset)
