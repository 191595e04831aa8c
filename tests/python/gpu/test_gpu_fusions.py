# SPDX-License-Identifier: Apache-2.0
"""Every fusion of a launch plan fires where it should, and leaves the numbers as they were within rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from helpers.gpu_graphs import Sample, deviation, golden_sample, small_sample
from helpers.op_cases import STATE_WIDTH, case_state, one_op_policy
from lightwam.engine.builder import ProgramBuilder
from lightwam.engine.graph import Constant, Graph, Program, TensorType
from lightwam.engine.memory_plan import plan_graph
from lightwam.export.layers import constant
from lightwam.gpu import fuse_attention, fuse_norms, fuse_rows
from lightwam.gpu.lower import FUSIONS, Fusion, lower
from lightwam.gpu.nodes import WeightRows
from lightwam.gpu.plan import LaunchPlan
from lightwam.gpu.verify import verify_plan

#: Of a chunk: what is fused is not rounded on the way (bf16), or falls to the next of 256 steps (int8).
TOLERANCE = {"f32": 2e-6, "bf16": 1e-2, "int8": 3e-2}


def _up_to(fusion: Fusion, included: bool) -> tuple[Fusion, ...]:
    return FUSIONS[: FUSIONS.index(fusion) + included]


@cache
def _plan(sample: Callable[[], Sample], fusions: tuple[Fusion, ...]) -> LaunchPlan:
    return lower(sample().graph, fusions)


def _kernels(plan: LaunchPlan) -> Counter[str]:
    return Counter(plan.tasks[launch.task].task.kernel for launch in plan.programs["act"].launches)


def _arguments(plan: LaunchPlan, name: str) -> int:
    """How many launches of `act` have an argument of that name."""
    tasks = [plan.tasks[launch.task].task for launch in plan.programs["act"].launches]
    return sum(name in {argument.name for argument in task.arguments} for task in tasks)


def _small(precision: Any) -> Callable[[], Sample]:
    return _SMALL[precision]


_SMALL: dict[str, Callable[[], Sample]] = {
    "f32": lambda: small_sample("f32"),
    "bf16": lambda: small_sample("bf16"),
    "int8": lambda: small_sample("int8"),
    "golden": lambda: golden_sample("golden_set1", "bf16", "folded"),
}

#: Fusion, the policy, and the change in launches a kernel. Blocks: 3; poolers: 2; a key of proprio in every block.
FIRES: tuple[tuple[Fusion, str, dict[str, int]], ...] = (
    (fuse_norms.affine_chain, "f32", {"affine": -2}),
    (fuse_norms.addition_in_norm, "f32", {"elementwise": -1}),
    (fuse_attention.qkv_in_one_matmul, "f32", {"matmul": -8, "rms_norm_rope": -6}),
    (fuse_rows.matmuls_of_one_row, "f32", {"matvec": -5}),
    (fuse_norms.layer_norm_in_matvec, "f32", {"row_norm": -4}),
    (fuse_norms.rounding_in_matvec, "int8", {"quantize_rows": -16, "row_norm": -4}),
    (fuse_rows.pools_in_batches, "f32", {"learned_query_scores": -1, "learned_query_sum": -1}),
    (fuse_rows.single_rows_side_by_side, "f32", {"elementwise": -1}),
    (fuse_rows.like_rows_in_batches, "f32", {"matvec": -6, "row_norm": -3}),
    (fuse_norms.norm_with_rounding, "int8", {"quantize_rows": -13}),
    (fuse_norms.rounding_on_load, "int8", {"quantize_rows": -8}),
    (fuse_attention.query_norm_in_cross_attention, "f32", {"row_norm": -3}),
    (fuse_norms.layer_norm_on_load, "f32", {"row_norm": -11}),
    (fuse_norms.norm_in_convolution, "f32", {"row_norm": -12}),
)


def test_every_fusion_is_listed() -> None:
    assert tuple(fusion for fusion, _, _ in FIRES) == FUSIONS


@pytest.mark.parametrize(("fusion", "precision", "change"), FIRES, ids=lambda entry: getattr(entry, "__name__", None))
def test_a_fusion_fires_and_keeps_the_numbers(fusion: Fusion, precision: str, change: dict[str, int]) -> None:
    sample = _small(precision)
    before, after = (_plan(sample, _up_to(fusion, included)) for included in (False, True))
    found = _kernels(after)
    found.subtract(_kernels(before))
    assert {kernel: count for kernel, count in found.items() if count} == change
    verify_plan(after, sample().graph)
    made, wanted = (sample().planned(plan, "reference") for plan in (after, before))
    assert deviation(made, wanted) <= TOLERANCE[precision]


@pytest.mark.parametrize("fusion", FUSIONS, ids=lambda fusion: fusion.__name__)
def test_a_fusion_stands_alone(fusion: Fusion) -> None:
    """Without the ones before it, on rows that are no multiple of 64 columns."""
    sample = _small("golden")()
    plan = lower(sample.graph, (fusion,))
    verify_plan(plan, sample.graph)
    wanted = sample.planned(lower(sample.graph, ()), "reference")
    assert deviation(sample.planned(plan, "reference"), wanted) <= TOLERANCE["bf16"]


def test_statistics_replace_passes_over_rows() -> None:
    plan = _plan(_small("int8"), FUSIONS)
    assert _arguments(plan, "q_statistics") == 6  # self and cross attention of three blocks
    assert _arguments(plan, "x_statistics") > 0


def test_weights_of_all_blocks_lie_side_by_side() -> None:
    sample = _small("f32")()
    plan = _plan(_small("f32"), FUSIONS)
    keys = [f"blocks.{block}.cross_attn.k.weight" for block in range(3)]
    sizes = [sample.graph.constants[name].type.num_bytes for name in keys]
    assert np.diff([plan.weights[name] for name in keys]).tolist() == sizes[:2]


def test_weights_lie_side_by_side_in_one_order() -> None:
    rows = WeightRows({name: constant(name, "f32", (8,), lambda: torch.zeros(8)) for name in "abc"})
    assert not rows.join(("a", "b"), ("b", "a")) and not rows.rows
    assert rows.join(("a", "b", "c"), ("b", "c"), ("c",)) and not rows.join(("a", "c"))
    assert set(rows.rows.values()) == {("a", "b", "c")}


def _two_readers() -> Sample:
    """x [20, 64] is read by a layer norm and by 8-bit rounding, each before a product; their sum is normed."""
    constants: dict[str, Constant] = {}
    rng = torch.Generator().manual_seed(0)

    def weight(name: str, *shape: int) -> Constant:
        numbers = torch.randn(shape, generator=rng) / shape[1] ** 0.5
        return constant(name, "f32", shape, lambda: numbers)

    act = ProgramBuilder(constants, "expert")
    state = act.bind("state", "f32", (1, STATE_WIDTH))
    flat = act.emit("linear", "flat", {"x": state}, {"weight": weight("w.flat", 20 * 64, 8)}, activation="none")
    rows = act.emit("reshape", "rows", {"x": flat}, {}, "f32", (20, 64))
    x = act.emit("linear", "x", {"x": rows}, {"weight": weight("w.x", 64, 64)}, activation="none")
    normed = act.emit("layer_norm", "norm", {"x": x}, eps=1e-5)
    a = act.emit("linear", "a", {"x": normed}, {"weight": weight("w.a", 24, 64)}, activation="none")
    types = {"y": TensorType("i8", (20, 64)), "scale": TensorType("f32", (20,)), "zero": TensorType("i32", (20,))}
    made = act.emit_many("quantize_rows", "rounding", {"x": x}, types, "arena", "rounded.")
    whole = torch.randint(-127, 128, (24, 64), generator=rng)
    eight_bit = {
        "weight": constant("w.b", "i8", (24, 64), lambda: whole),
        "weight_scale": constant("s.b", "f32", (24,), lambda: torch.full((24,), 0.01)),
    }
    inputs = {"x": made["y"], "x_scale": made["scale"], "x_zero": made["zero"]}
    b = act.emit("linear", "b", inputs, eight_bit, activation="none")
    total = act.emit("add", "sum", {"a": a, "b": b})
    actions = act.emit("layer_norm", "actions", {"x": total}, eps=1e-5)
    programs = {"set_instruction": Program({}, (), {}), "act": act.finish({"actions": actions})}
    graph = plan_graph(Graph("two readers", "int8", one_op_policy((20, 24), 1), programs, constants))
    return Sample(graph, np.zeros((1, 4), np.float32), case_state(), None, None)


def test_a_writer_leaves_one_kind_of_statistics() -> None:
    """The second reader keeps its own pass; a sum of whole matrices is normed without being stored."""
    sample = _two_readers()
    plan = lower(sample.graph)
    verify_plan(plan, sample.graph)
    assert _arguments(plan, "x_statistics") == 1
    assert (_arguments(plan, "addend"), _kernels(plan)["elementwise"]) == (1, 0)
    assert deviation(sample.planned(plan, "reference"), sample.interpreted()) <= TOLERANCE["int8"]
