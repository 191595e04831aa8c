# SPDX-License-Identifier: Apache-2.0
"""fp8 engines: e4m3 weights and rows beside torch's, gates, launch plans, and where they do not run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.golden import golden_policy
from helpers.gpu_graphs import Sample, deviation, full_size_costs, golden_sample, small_sample
from lightwam.cli import main
from lightwam.engine.dtypes import decode
from lightwam.engine.file import read_engine, write_engine
from lightwam.engine.graph import Constant, EightBit, TensorType
from lightwam.engine.ops.linear import quantize_rows
from lightwam.errors import ConfigError, ExportError
from lightwam.export import export_engine
from lightwam.gpu.compile import compile_plan
from lightwam.gpu.lower import lower
from lightwam.gpu.roofline import SHARE, predict
from lightwam.kernels.compiler.tasks import Compiler
from lightwam.kernels.formats import bfloat16_bits
from lightwam.kernels.targets import GPUS
from lightwam.quantize.calibration import random_observations
from lightwam.quantize.layers import find_layers, in_precision, quantize_graph, quantize_weight
from lightwam.quantize.quantize_engine import quantize_engine
from lightwam.quantize.report import QuantizeOptions, report_path

#: Of a chunk whose other products are f32: no number of these rows lies beside a tie. Where one does (golden set 3), it
#: falls to the next of e4m3, an eighth away, and moves the chunk by percents.
TOLERANCE = 1e-5


def _fp8(sample: Sample) -> Sample:
    """An f32 sample with every layer in fp8."""
    return replace(sample, graph=in_precision(sample.graph, "fp8", 1))


def _constant(numbers: np.ndarray, dtype: str = "f32") -> Constant:  # type: ignore[type-arg]
    return Constant("w", TensorType(dtype, numbers.shape), lambda: numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_weights_are_torchs_e4m3_of_the_scaled_rows(dtype: str) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 7, 33)).astype(np.float32)
    weight[0, 1], weight[1, 2, 3] = 0, 50
    stored = bfloat16_bits(weight) if dtype == "bf16" else weight
    numbers, scale = quantize_weight(stored, _constant(stored, dtype), "fp8")
    read = decode(stored, dtype).reshape(21, 33)  # type: ignore[arg-type]
    wanted = np.abs(read).max(1) / np.float32(448)
    wanted[wanted == 0] = 1
    np.testing.assert_array_equal(scale, wanted)
    held = torch.from_numpy(np.clip(read / wanted[:, None], -448, 448)).to(torch.float8_e4m3fn)
    np.testing.assert_array_equal(numbers.reshape(21, 33), held.view(torch.uint8).numpy())
    assert numbers.dtype == np.uint8 and numbers.shape == weight.shape
    with pytest.raises(ExportError, match="weight w holds NaN or infinity"):
        weight[2, 6, 32] = np.nan
        quantize_weight(weight, _constant(weight), "fp8")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_come_back_within_half_a_step(bad: float) -> None:
    rows = torch.from_numpy(np.random.default_rng(1).standard_normal((5, 33)).astype(np.float32))
    rows[3, 7] = bad
    made = quantize_rows(rows, "f8")
    assert set(made) == {"y", "scale"} and torch.isfinite(made["scale"]).tolist() == [True, True, True, False, True]
    sound = [0, 1, 2, 4]
    back = made["y"].float()[sound] * made["scale"][sound, None]
    limit = torch.maximum(rows[sound].abs() / 16, made["scale"][sound, None] * 2.0**-10)
    assert ((back - rows[sound]).abs() <= 1.001 * limit).all()
    assert (made["y"].float()[sound].abs().amax(-1) == 448).all()


def test_a_golden_engine_passes_its_gates_and_says_so(tmp_path: Path) -> None:
    golden, engine, out = golden_policy("golden_set3"), tmp_path / "e.lwam", tmp_path / "q.lwam"
    export_engine(
        golden.model, engine, start_at="latents", latent_shape=golden.latent_shape, context_rows=golden.context_rows,
        instructions={"go": golden.tensors["in.context"][0]}, parity_seeds=(), precision="bf16",
    )  # fmt: skip
    options = QuantizeOptions(min_weights=1, layer_gate=0.08, chunk_gate=0.99, precision="fp8", threads=1)
    report = quantize_engine(engine, out, random_observations(read_engine(engine), 2, 3, seed=0), options)
    assert report.passed and report.chunk is not None and report.chunk.cosine_min >= 0.99
    graph, stored = read_engine(out), json.loads(report_path(out).read_text())
    assert graph.precision == "fp8" and graph.provenance["quantization"] == report.summary()
    assert stored["layers_fp8"] > 10 and stored["layers"][0]["verdict"] == "fp8"
    assert graph.constants["blocks.0.ffn.0.weight"].type.dtype == "f8"
    # Eight bits of a float: 3 of mantissa, so about 2.6 % of a number, whatever its size.
    assert all(0.01 < entry.errors.weight < 0.04 for entry in report.layers if entry.errors is not None)
    with pytest.raises(ExportError, match="is quantised already"):
        find_layers(graph)
    with pytest.raises(ConfigError, match="is an fp8 engine: give a float engine"):
        quantize_engine(engine, tmp_path / "again.lwam", random_observations(read_engine(engine), 1, 1, seed=0),
                        QuantizeOptions(reference=out))  # fmt: skip


@pytest.fixture(scope="module")
def golden() -> Sample:
    return _fp8(golden_sample("golden_set1", "f32", "folded"))


def test_plans_compute_what_the_interpreter_does(golden: Sample) -> None:
    for plan in (golden.plain_plan, golden.plan):
        assert {planned.task.product_type for planned in plan.tasks} >= {"f8", "f32"}
        assert deviation(golden.planned(plan, "reference"), golden.chunk) <= TOLERANCE


def test_kernels_of_a_plan_compute_its_chunk(golden: Sample) -> None:
    assert deviation(golden.planned(golden.plan, "interpreter"), golden.chunk) <= TOLERANCE


def test_a_small_policy_from_images() -> None:
    sample = _fp8(small_sample("f32"))
    assert deviation(sample.planned(sample.plan, "reference"), sample.chunk) <= TOLERANCE


def test_a_full_size_chunk_takes_as_many_launches_as_in_int8_and_no_more_time() -> None:
    precisions: tuple[EightBit, ...] = ("int8", "fp8")
    costs = {precision: full_size_costs("libero", precision) for precision in precisions}
    assert len(costs["fp8"].launches) == len(costs["int8"].launches)
    for device in (GPUS["thor"], GPUS["4090"], GPUS["h100"]):
        times = [sum(predict(costs[precision], device, SHARE).values()) for precision in ("fp8", "int8")]
        assert times[0] <= times[1]


def test_targets_without_fp8_are_refused_by_name_and_left_out_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = golden_sample("golden_set3", "fp8", "folded").graph
    engine = tmp_path / "fp8.lwam"
    write_engine(graph, engine)
    message = r"target sm_87 \(Jetson Orin\) has no fp8 matmuls.*lightwam quantize --format int8"
    with pytest.raises(ExportError, match=message):
        compile_plan(lower(graph), ["sm_90", "sm_87"], Compiler(None, 1))
    assert main(["compile", str(engine), str(tmp_path / "gpu.lwam"), "--targets", "sm_87"]) != 0
    assert "has no fp8 matmuls" in capsys.readouterr().err
    assert main(["bench", "--roofline", "--device", "orin", "--engine", str(engine)]) != 0
    assert "Jetson AGX Orin 64 GB has no f8 matmuls" in capsys.readouterr().err


def test_shares_of_weights_keep_one_format() -> None:
    graph = golden_sample("golden_set3", "bf16", "folded").graph
    made = quantize_graph(graph, find_layers(graph, 1), "fp8")
    formats = {constant.type.dtype for constant in made.constants.values()}
    assert formats >= {"f8", "bf16", "f32"} and "i8" not in formats
    assert not any(name.endswith(".zero") for name in made.programs["act"].values)
