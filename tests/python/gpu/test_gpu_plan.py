# SPDX-License-Identifier: Apache-2.0
"""Launch plans: they hold to the rules, compute what the interpreter does, and cost what they may."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from helpers.gpu_graphs import bundled_sample, deviation, full_size_costs, full_size_plan, golden_sample, small_sample
from lightwam.gpu.plan import linear_of, plan_to_json
from lightwam.kernels.ops import matmul
from lightwam.quantize.layers import find_layers, quantize_graph

#: f32: sums in another order. bf16 (f16): every value between launches has 8 (11) bits, and fused ones are not rounded.
#: int8: a value that lies between two of 256 steps may take either.
TOLERANCE = {"f32": 1e-5, "bf16": 2e-2, "f16": 2.5e-3, "int8": 4e-2}
PRECISIONS = ("f32", "bf16", "f16", "int8")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cross_output", ["folded", "projected"])
@pytest.mark.parametrize("name", ["golden_set1", "golden_set3"])
def test_golden_plans_compute_the_graph(name: str, cross_output: Any, precision: Any) -> None:
    """The kernels' references, with and without fusions: the plan's own order, places and operands."""
    sample = golden_sample(name, precision, cross_output)
    for plan in (sample.plain_plan, sample.plan):
        assert deviation(sample.planned(plan, "reference"), sample.chunk) <= TOLERANCE[precision]


@pytest.mark.parametrize(
    ("name", "precision", "cross_output"),
    [("golden_set1", "f32", "folded"), ("golden_set3", "bf16", "projected"), ("golden_set3", "int8", "folded")],
)
def test_golden_plans_run_in_the_interpreter(name: str, precision: Any, cross_output: Any) -> None:
    """The kernels' own source, on the plan's addresses."""
    sample = golden_sample(name, precision, cross_output)
    made = sample.planned(sample.plan, "interpreter")
    assert deviation(made, sample.chunk) <= TOLERANCE[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_plan_from_images_computes_the_graph(precision: Any) -> None:
    sample = small_sample(precision)
    for plan in (sample.plain_plan, sample.plan):
        assert deviation(sample.planned(plan, "reference"), sample.chunk) <= TOLERANCE[precision]


def test_a_plan_from_images_runs_in_the_interpreter() -> None:
    sample = small_sample("f32")
    made = sample.planned(sample.plan, "interpreter")
    assert deviation(made, sample.chunk) <= TOLERANCE["f32"]


def test_eight_bits_of_an_f16_engine() -> None:
    """Rounding and matmuls of i8 read and write f16 as they do bf16."""
    whole = golden_sample("golden_set3", "f16", "folded")
    sample = replace(whole, graph=quantize_graph(whole.graph, find_layers(whole.graph, 1)))
    assert {argument.dtype for planned in sample.plan.tasks for argument in planned.task.arguments} >= {"i8", "f16"}
    assert deviation(sample.planned(sample.plan, "reference"), sample.chunk) <= TOLERANCE["int8"]


def test_the_bundled_policy_runs_in_the_interpreter() -> None:
    sample = bundled_sample()
    assert deviation(sample.planned(sample.plan, "interpreter"), sample.chunk) <= TOLERANCE["f32"]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("name", ["libero", "robotwin"])
def test_full_size_plans_are_within_their_limits(name: str, precision: Any) -> None:
    costs = full_size_costs(name, precision)
    assert len(costs.launches) <= 330
    assert costs.num_bytes <= 1.3 * costs.bound
    assert costs.peak_memory <= (2.0e9 if precision == "int8" else 3.5e9)


def test_linear_layers_that_a_library_may_compute_are_marked() -> None:
    plan = full_size_plan("libero", "bf16")
    marked = {planned.label: linear_of(planned.task) for planned in plan.tasks}
    assert marked["blocks.0.ffn.0"] == {
        "rows": 392, "outputs": 8960, "inputs": 1536, "x": "bf16", "y": "bf16", "activation": "gelu_tanh",
    }  # fmt: skip
    assert marked["blocks.0.ffn.2"] == {
        "rows": 392, "outputs": 1536, "inputs": 8960, "x": "bf16", "y": "f32", "activation": "none",
    }  # fmt: skip
    assert marked["blocks.0.self_attn.attention.qkv"] is None  # writes row statistics
    assert marked["blocks.0.cross_attn.q"] is None  # norms its rows
    entries = {entry["label"]: entry.get("linear") for entry in plan_to_json(plan)["tasks"]}
    assert entries == marked


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({"x": "f32", "weight": "f32", "y": "f32"}, True),
        ({"x": "bf16", "weight": "bf16", "y": "f16"}, False),
        ({"x": "f32", "weight": "bf16", "y": "f32"}, False),
        ({"x": "f16", "weight": "f16", "y": "f16", "residual": "f16"}, True),
        ({"x": "f16", "weight": "f16", "y": "f16", "residual": "f32"}, False),
        ({"x": "f16", "weight": "f16", "y": "f16", "residual": "f16", "activation": "gelu_tanh"}, False),
        ({"x": "f16", "weight": "f16", "y": "f16", "activation": "gelu_tanh", "bias": True}, True),
        ({"x": "f16", "weight": "f16", "y": "f16", "activation": "silu"}, False),
        ({"x": "f16", "weight": "f16", "y": "f16", "groups": 2}, False),
        ({"x": "i8", "weight": "i8", "y": "f32", "x_mode": "quantized"}, False),
    ],
)
def test_what_one_call_of_a_library_computes(options: dict[str, Any], fits: bool) -> None:
    assert (linear_of(matmul.task(33, 24, 40, **options)) is not None) == fits


def test_a_libero_chunk_takes_this_many_launches() -> None:
    """As docs/reports/gpu-predictions.md says."""
    launches = {
        precision: len(full_size_plan("libero", precision).programs["act"].launches)
        for precision in ("bf16", "f16", "int8")
    }
    assert launches == {"bf16": 296, "f16": 296, "int8": 324}
