# SPDX-License-Identifier: Apache-2.0
"""What a plan costs and is predicted to take; `lightwam bench --roofline`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.gpu_graphs import full_size_costs, full_size_graph, full_size_plan, small_sample
from lightwam.cli import main
from lightwam.engine.costs import graph_costs
from lightwam.engine.dtypes import DType
from lightwam.engine.graph import Precision
from lightwam.gpu.lower import lower
from lightwam.gpu.plan import SideStream
from lightwam.gpu.report import LaunchCost, PlanCosts, plan_costs
from lightwam.gpu.roofline import SHARE, chunk_seconds, launch_seconds, predict
from lightwam.kernels.targets import GPUS, Gpu


@pytest.fixture(scope="module")
def costs() -> PlanCosts:
    return full_size_costs("libero", "bf16")


def test_a_plan_makes_the_matmuls_of_its_graph(costs: PlanCosts) -> None:
    assert costs.flops == graph_costs(full_size_graph("libero", "bf16"), costs.text_rows).flops


def test_fusions_save_launches_and_bytes(costs: PlanCosts) -> None:
    graph = full_size_graph("libero", "bf16")
    unfused = plan_costs(lower(graph, ()), graph)
    assert len(unfused.launches) == 579
    assert costs.bound == unfused.bound < costs.num_bytes < unfused.num_bytes


def test_bytes_of_launches_by_hand(costs: PlanCosts) -> None:
    """Tokens [392, 1536]; q, k and v in one matmul; a self-attention that reads their squares, not all statistics."""
    launches = {launch.name: launch for launch in costs.launches}
    tokens, row = 392, 1536
    matmul = launches["blocks.0.self_attn.attention.qkv"]
    weights, squares = 2 * 3 * row * row + 4 * 3 * row, 8 * tokens * 3 * row // 64
    assert matmul.num_bytes == 2 * tokens * row + weights + 2 * tokens * 3 * row + squares
    attention = launches["blocks.0.self_attn.attention"]
    tables = 2 * 4 * tokens * 64 + 2 * 4 * row
    read_squares = squares - 8 * row // 64  # the last row's squares of v lie past the end
    assert attention.num_bytes == 2 * tokens * 3 * row + read_squares + tables + 2 * tokens * row
    ffn = launches["blocks.0.ffn.2"]
    assert ffn.num_bytes == 2 * tokens * 8960 + 2 * 8960 * row + 4 * row + 2 * 4 * tokens * row


def test_few_text_keys_are_counted(costs: PlanCosts) -> None:
    graph, plan = full_size_graph("libero", "bf16"), full_size_plan("libero", "bf16")
    short, long = (plan_costs(plan, graph, rows) for rows in (5, 128))
    assert short.flops < costs.flops < long.flops
    assert short.num_bytes < costs.num_bytes < long.num_bytes


def test_a_launch_takes_the_longer_of_matmuls_and_bytes(costs: PlanCosts) -> None:
    orin = GPUS["orin"]
    convolution = next(launch for launch in costs.launches if launch.name == "vae.down.0.conv2")
    assert launch_seconds(convolution, orin).alone == pytest.approx(
        max(convolution.flops / 42.5e12, convolution.num_bytes / 204e9)
    )
    norm = next(launch for launch in costs.launches if launch.kernel == "row_norm")
    assert launch_seconds(norm, orin).alone == norm.num_bytes / 204e9
    whole, share = predict(costs, orin), predict(costs, orin, SHARE)
    assert sum(share.values()) == pytest.approx(sum(whole.values()) / SHARE)
    assert list(whole) == ["preprocess", "vae", "backbone", "expert", "postprocess"]


def _cost(name: str, flops: int, num_bytes: int) -> LaunchCost:
    return LaunchCost(name, "backbone", "matmul", flops, num_bytes, "bf16")


def test_a_side_stream_moves_its_bytes_in_the_memory_s_spare_time() -> None:
    """Matmuls 10 s and 2 s, bytes 4 s and 6 s of the launches beside it: 6 s to spare, none where bytes bound."""
    gpu = Gpu("a", "sm_87", "a", 1.0, 1.0, 1.0, bandwidth=1.0, memory=1e9, cache=1e9)
    beside = (_cost("b", 10, 4), _cost("c", 2, 6))

    def seconds(flops: int, num_bytes: int, through_memory: tuple[int, ...] | None = None) -> list[float]:
        launches = (_cost("a", flops, num_bytes), *beside, _cost("d", 3, 9))
        return list(chunk_seconds(PlanCosts(launches, 1, 1, {}, SideStream(1, 3)), gpu, through_memory))

    assert seconds(0, 5) == [0, 10, 6, 9]  # all of it hides
    assert seconds(0, 8) == pytest.approx([2, 10, 6, 9])  # 2 s do not
    assert seconds(1, 5) == pytest.approx([1, 10, 6, 9])  # matmuls hide nowhere
    assert seconds(7, 5) == [7, 10, 6, 9]
    assert seconds(0, 8, (8, 2, 6, 9)) == pytest.approx([0, 10, 6, 9])  # a cache leaves more to spare
    assert seconds(0, 8, (8, 20, 6, 9)) == pytest.approx([8, 20, 6, 9])


def test_a_full_size_side_stream_hides_on_an_orin() -> None:
    """As docs/reports/gpu-predictions.md says: all of it but its matmuls, and the promised 35 ms in int8 are met."""
    counted, orin = full_size_costs("libero", "int8"), GPUS["orin"]
    assert counted.side_stream is not None
    apart, together = (chunk_seconds(c, orin) for c in (replace(counted, side_stream=None), counted))
    side = slice(counted.side_stream.launches)
    assert sum(together[side]) < 0.02 * sum(apart[side])
    assert sum(apart[side]) > 0.0005 and sum(together) / SHARE < 0.035


def test_bytes_of_memory_and_of_the_cache_bound_a_launch(costs: PlanCosts) -> None:
    thor = GPUS["thor"]
    norm = next(launch for launch in costs.launches if launch.kernel == "row_norm")
    assert launch_seconds(norm, thor, 0).alone == norm.num_bytes / (2 * 273e9)
    assert launch_seconds(norm, thor, 3 * norm.num_bytes).alone == 3 * norm.num_bytes / 273e9


def test_predictions_that_the_project_promises() -> None:
    """At 60 % of the roofline, all through memory, 32 rows of text; with f16 streams without a side stream too."""
    promises: list[tuple[Precision, DType, dict[str, float]]] = [
        ("bf16", "f32", {"orin": 60, "4090": 15, "h100": 5}),
        ("int8", "f32", {"orin": 35, "orin-nano": 140}),
        ("int8", "f16", {"orin": 35, "thor": 20}),
    ]
    for precision, stream_dtype, limits in promises:
        counted = full_size_costs("libero", precision, stream_dtype)
        for device, limit in limits.items():
            assert 1e3 * sum(predict(counted, GPUS[device], SHARE).values()) <= limit
            in_turn = sum(launch_seconds(launch, GPUS[device]).alone for launch in counted.launches)
            assert stream_dtype == "f32" or 1e3 * in_turn / SHARE <= limit


def test_memory_is_what_the_executor_allocates() -> None:
    """All slots of a small policy, the least of them for a full-size one, whose int8 form must fit into 2 GB."""
    graph, plan = small_sample("int8").graph, small_sample("int8").plan
    memory = plan_costs(plan, graph).memory
    assert memory["weights"] == plan.weights_bytes and memory["instructions"] == 32 * graph.instruction_bytes
    assert memory["arena"] == plan.programs["act"].arena_bytes
    large = full_size_graph("robotwin", "int8")
    costs = full_size_costs("robotwin", "int8")
    assert costs.memory["instructions"] == 2 * large.instruction_bytes
    assert costs.peak_memory <= 2.0e9


def test_bench_prints_and_writes_a_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--roofline", "--device", "thor", "--out", str(tmp_path)]) == 0  # of the bundled policy
    assert "Prediction, not a measurement" in capsys.readouterr().out.replace("\n", " ")
    document = json.loads((tmp_path / "roofline.json").read_text())
    assert document["kind"] == "prediction" and document["device"]["name"] == "Jetson Thor T5000"
    assert sum(document["seconds"]["1.0"].values()) == pytest.approx(
        sum(launch["seconds"] for launch in document["launches"])
    )
    assert sum(document["seconds_with_cache"]["1.0"].values()) == pytest.approx(
        sum(launch["seconds_with_cache"] for launch in document["launches"])
    )
    assert document["bytes_with_cache"] == sum(launch["bytes_with_cache"] for launch in document["launches"])
    assert [path.name for path in tmp_path.iterdir()] == ["roofline.json"]


def test_bench_without_triton_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(sys.modules):
        if name.startswith(("lightwam.gpu", "lightwam.cli.roofline")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in list(sys.modules):
        if name.startswith("lightwam.kernels"):
            monkeypatch.delitem(sys.modules, name)
    assert main(["bench", "--roofline"]) == 2
    error = capsys.readouterr().err
    assert "pip install '.[gpu]'" in error and error.count("\n") == 1
