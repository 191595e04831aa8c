# SPDX-License-Identifier: Apache-2.0
"""What a plan costs: launches, FLOPs, bytes through device memory against the least that fused groups can move."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lightwam.engine.costs import counted_text_rows, graph_costs, text_keys
from lightwam.engine.graph import Graph, Op, Program, Stage
from lightwam.gpu.intervals import Intervals
from lightwam.gpu.plan import Access, Launch, LaunchPlan, SideStream, accesses
from lightwam.kernels.task import ProductType

#: Camera frames have any size; costs are told for this one, [height, width, 3] bytes.
FRAME_SIZE = (256, 256)
#: Instruction slots of the executor (csrc/cuda/executor.cpp): as many as fit into so many bytes, in these limits.
_INSTRUCTIONS_BYTES = 256 << 20
_SLOTS = (2, 32)
_TEXT = ("key_text", "value_text", "output_text", "key_bias")
_ANCHORS = (
    "conv2d", "linear", "grouped_linear", "self_attention", "cross_attention", "cross_attention_folded",
    "learned_query_pool", "mean_pool", "preprocess_images", "nchw_to_nhwc",
)  # fmt: skip


@dataclass(frozen=True)
class LaunchCost:
    """One launch. `num_bytes`: every byte that it reads or writes, counted once: tiles read again come from caches."""

    name: str
    stage: Stage
    kernel: str
    flops: int
    num_bytes: int
    product_type: ProductType


@dataclass(frozen=True)
class PlanCosts:
    """One chunk (`act`), for an instruction of `text_rows` rows.

    `bound`: the bytes of the weights once, and of the inputs and outputs of every fused group. `memory`: bytes on the
    device by purpose (weights, slots of instructions, arena, bound inputs and outputs), without machine code.
    """

    launches: tuple[LaunchCost, ...]
    text_rows: int
    bound: int
    memory: Mapping[str, int]
    side_stream: SideStream | None = None

    @property
    def flops(self) -> int:
        return sum(launch.flops for launch in self.launches)

    @property
    def num_bytes(self) -> int:
        return sum(launch.num_bytes for launch in self.launches)

    @property
    def peak_memory(self) -> int:
        return sum(self.memory.values())


def plan_costs(plan: LaunchPlan, graph: Graph, text_rows: int | None = None) -> PlanCosts:
    """Count `act`. `text_rows`: length of the instruction; None: the longest known one, 32 rows where none is."""
    rows = counted_text_rows(graph) if text_rows is None else text_rows
    launches = tuple(_launch_cost(plan, launch, rows) for launch in plan.programs["act"].launches)
    memory = device_memory(plan, graph)
    return PlanCosts(launches, rows, lower_bound(graph, rows), memory, plan.programs["act"].side_stream)


def _launch_cost(plan: LaunchPlan, launch: Launch, text_rows: int) -> LaunchCost:
    task = plan.tasks[launch.task].task
    touched: dict[str, Intervals] = {}
    flops = float(task.flops)
    for access in accesses(launch, plan, plan.programs["act"]):
        end = counted_end(access, text_rows)
        touched.setdefault(access.buffer.name if access.buffer else "", Intervals()).add(access.start, end)
        if access.argument.name == "key_text" and access.argument.shape is not None:
            proprio = [a.shape[0] for a in task.arguments if a.name == "key_proprio" and a.shape is not None]
            length, others = access.argument.shape[0], sum(proprio)
            flops *= (text_keys(text_rows, length) + others) / (length + others)
    num_bytes = sum(intervals.total() for intervals in touched.values())
    return LaunchCost(launch.name, launch.stage, task.kernel, round(flops), num_bytes, task.product_type)


def counted_end(access: Access, text_rows: int) -> int:
    """Where the bytes that a chunk touches end, for an instruction of `text_rows` rows and frames of `FRAME_SIZE`."""
    argument = access.argument
    if argument.shape is None:
        return access.start + math.prod(FRAME_SIZE) * 3
    if argument.name in _TEXT:
        return access.start + (access.end - access.start) * text_keys(text_rows, argument.shape[0]) // argument.shape[0]
    return access.end


def device_memory(plan: LaunchPlan, graph: Graph) -> dict[str, int]:
    """Bytes that the executor allocates on the device by purpose, without machine code and the driver's own."""
    bound = [
        math.prod(FRAME_SIZE) * 3 if buffer.num_bytes is None else buffer.num_bytes
        for program in plan.programs.values()
        for buffer in program.buffers
        if buffer.space in ("input", "output")
    ]
    slots = _INSTRUCTIONS_BYTES // max(graph.instruction_bytes, 1)
    return {
        "weights": plan.weights_bytes,
        "instructions": graph.instruction_bytes * min(max(slots, _SLOTS[0]), _SLOTS[1]),
        "arena": max(program.arena_bytes for program in plan.programs.values()),
        "inputs and outputs": sum(bound),
    }


def lower_bound(graph: Graph, text_rows: int) -> int:
    """The least bytes of a chunk: its constants once, and inputs and outputs of the fused groups.

    A group is a matmul, attention or pooling (matmuls of one x together) with every row-wise step (norms, rounding,
    sums, other formats) fused into it: it reads what other groups wrote, and writes its own result, each once.
    """
    program = graph.programs["act"]
    writers = {name: op for op in program.ops for name in op.outputs.values()}
    groups: dict[str, set[str]] = {}
    total = graph_costs(graph, text_rows).constant_bytes
    for op in program.ops:
        if op.op in _ANCHORS:
            group = groups.setdefault(op.inputs.get("x", op.name), set())
            for role, value in op.inputs.items():
                for source in _sources(value, program, writers):
                    if source not in group:
                        group.add(source)
                        total += _read_bytes(source, role, program, text_rows)
            total += sum(program.values[name].type.num_bytes for name in op.outputs.values())
        if op.op == "preprocess_images":
            total += len(graph.policy["cameras"]) * math.prod(FRAME_SIZE) * 3
    return total


def _sources(value: str, program: Program, writers: Mapping[str, Op]) -> Iterator[str]:
    """The groups' results, inputs and cached values that a value is made of, row-wise steps passed over."""
    op = writers.get(value)
    if op is None or op.op in _ANCHORS:
        yield value
        return
    for name in op.inputs.values():
        yield from _sources(name, program, writers)


def _read_bytes(source: str, role: str, program: Program, text_rows: int) -> int:
    tensor = program.values[source].type
    if role in _TEXT:
        return tensor.num_bytes * text_keys(text_rows, tensor.shape[0]) // tensor.shape[0]
    return tensor.num_bytes
