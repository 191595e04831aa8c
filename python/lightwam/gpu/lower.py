# SPDX-License-Identifier: Apache-2.0
"""Graph -> launch plan: simplify, fuse, order, make tasks, part the side stream, place everything (launch-plan.md)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from lightwam.engine.graph import PROGRAM_NAMES, Graph
from lightwam.engine.verify import check_usual_forms
from lightwam.errors import ExportError
from lightwam.gpu import fuse_attention, fuse_norms, fuse_rows
from lightwam.gpu.memory import place_values, place_weights
from lightwam.gpu.nodes import Node, Nodes, WeightRows
from lightwam.gpu.plan import (
    Address,
    Launch,
    LaunchPlan,
    PlannedTask,
    ProgramPlan,
    SideStream,
)
from lightwam.gpu.side import find_side_stream
from lightwam.gpu.simplify import SIMPLIFICATIONS, weight_sums
from lightwam.gpu.tasks import Call, Operand, WeightOperand, make_call
from lightwam.kernels.task import Task

Fusion = Callable[[Nodes], None]

#: In order: what has become one step early is what later fusions see.
FUSIONS: tuple[Fusion, ...] = (
    fuse_norms.affine_chain,
    fuse_norms.addition_in_norm,
    fuse_attention.qkv_in_one_matmul,
    fuse_rows.matmuls_of_one_row,
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
    """A program's nodes in their final order, each with what it launches."""

    nodes: Nodes
    steps: tuple[tuple[Node, Call], ...]
    side_stream: SideStream | None


def lower(graph: Graph, fusions: Sequence[Fusion] = FUSIONS, side_stream: bool = True) -> LaunchPlan:
    """The launch plan of a planned graph, without machine code. No weight is loaded.

    `side_stream`: whether launches that need no camera run beside the others where that pays (side.py).
    Raises `ExportError` for an op that no kernel can do.
    """
    check_usual_forms(graph)
    derived = weight_sums(graph)
    rows = WeightRows({**graph.constants, **derived})
    lowered = {name: _lower_program(graph, name, rows, fusions, side_stream) for name in PROGRAM_NAMES}
    offsets, weights_bytes = place_weights(rows, _used_weights(lowered.values()))
    tasks: dict[Hashable, int] = {}
    planned: list[PlannedTask] = []
    programs: dict[str, ProgramPlan] = {}
    for name, program in lowered.items():
        nodes, stream, calls = program.nodes, program.side_stream, [call for _, call in program.steps]
        buffers, indices, arena_bytes = place_values(nodes, graph.programs[name], calls, stream)
        launches: list[Launch] = []
        for node, call in program.steps:
            key = _identity(call.task)
            if key not in tasks:
                tasks[key] = len(planned)
                planned.append(PlannedTask(node.name, call.task))
            addresses = tuple(_address(nodes, operand, offsets, indices) for operand in call.operands)
            launches.append(Launch(node.name, node.stage, tasks[key], addresses))
        programs[name] = ProgramPlan(arena_bytes, tuple(buffers), tuple(launches), stream)
    used = {name: constant for name, constant in derived.items() if name in offsets}
    return LaunchPlan(weights_bytes, offsets, tuple(planned), programs, used)


def _lower_program(graph: Graph, name: str, rows: WeightRows, fusions: Sequence[Fusion], side_stream: bool) -> _Lowered:
    nodes = Nodes(graph, graph.programs[name], rows)
    for rewrite in (*SIMPLIFICATIONS, *fusions):
        rewrite(nodes)
    nodes.sort()
    steps: list[tuple[Node, Call]] = []
    for node in nodes.nodes:
        try:
            steps.append((node, make_call(nodes, node)))
        except ValueError as error:
            raise ExportError(f"op {node.name}: no kernel computes it ({error}): run this engine on the CPU") from error
    if not side_stream:
        return _Lowered(nodes, tuple(steps), None)
    order, stream = find_side_stream(nodes, [call for _, call in steps])
    return _Lowered(nodes, tuple(steps[index] for index in order), stream)


def _identity(task: Task) -> Hashable:
    """What tells tasks apart: launches of equal ones share their machine code."""
    return task.kernel, tuple(sorted(task.constants.items())), task.arguments


def _used_weights(lowered: Iterable[_Lowered]) -> list[str]:
    """Constants in order of their first use, those of `act` first: what a chunk reads lies together."""
    used: dict[str, None] = {}
    for program in reversed(list(lowered)):
        for _, call in program.steps:
            for operand in call.operands:
                if isinstance(operand, WeightOperand):
                    used.update(dict.fromkeys(operand.names))
    return list(used)


def _address(nodes: Nodes, operand: Operand, offsets: dict[str, int], buffers: dict[str, int]) -> Address:
    if isinstance(operand, WeightOperand):
        return Address(None, offsets[operand.names[0]])
    place = nodes.place(operand.value)
    return Address(buffers[place.base], place.offset + operand.offset)
