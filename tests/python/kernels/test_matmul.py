# SPDX-License-Identifier: Apache-2.0
"""matmul and matvec beyond their cases: every tactic, statistics as stored, rows that are not finite, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.kernel_runs import run_arrays
from lightwam.kernels.formats import Array, decode, encode
from lightwam.kernels.ops import matmul, matvec
from lightwam.kernels.ops import reference as float64
from lightwam.kernels.targets import TARGETS
from lightwam.kernels.task import DType, Tactic, Task

RUN_ON = (*TARGETS, "interpreter")
# The linears of the full-size policies: rows, n, k.
FULL_SIZE = [
    (392, 4608, 1536),
    (392, 1536, 1536),
    (392, 8960, 1536),
    (392, 1536, 8960),
    (392, 256, 1536),
    (392, 1536, 256),
    (1568, 1152, 384),
    (128, 1536, 4096),
    (32, 6144, 6144),
]


def _inputs(module: Any, task: Task) -> dict[str, Array]:
    generator = np.random.default_rng(11)
    given = module.example(task, generator)
    return {
        a.name: encode(given[a.name] if a.name in given else generator.standard_normal(a.shape or ()), a.dtype)
        if a.dtype != "i8" or a.name in given
        else generator.integers(-128, 128, a.shape or ()).astype(np.int8)
        for a in task.arguments
        if a.mode == "r"
    }


def _expected(module: Any, task: Task, inputs: dict[str, Array]) -> dict[str, Array]:
    numbers = {a.name: decode(inputs[a.name], a.dtype) for a in task.arguments if a.mode == "r"}
    result: dict[str, Array] = module.reference(task, numbers)
    return result


def _distinct(module: Any, task: Task) -> list[Tactic]:
    tactics: list[Tactic] = []
    for target in RUN_ON:
        for tactic in module.tactics(task, target):
            if all(dict(tactic.constants) != dict(other.constants) for other in tactics):
                tactics.append(tactic)
    return tactics


@pytest.mark.parametrize(
    ("module", "task"),
    [
        (matmul, matmul.task(72, 136, 64, x="f32", weight="f32", y="f32", bias=True, statistics="moments")),
        (matmul, matmul.task(136, 200, 32, x="i8", weight="i8", y="f32", x_mode="quantized", residual="f32")),
        (matmul, matmul.task(17, 40, 96, x="f16", weight="f16", y="f32", activation="silu")),
        (matmul, matmul.task(136, 200, 96, x="f8", weight="f8", y="f32", x_mode="quantized", residual="f32")),
        (matmul, matmul.task(72, 64, 128, x="f32", weight="f8", y="f32", x_mode="quantize", x_partials=2)),
        (matvec, matvec.task(72, 192, x="f32", weight="f32", y="f32", rows=3, batch=2, x_mode="layer_norm", eps=1e-6)),
        (matvec, matvec.task(70, 1100, x="i8", weight="i8", y="f32", x_mode="quantized")),
        (matvec, matvec.task(70, 1100, x="f8", weight="f8", y="f32", x_mode="quantized")),
        (matvec, matvec.task(70, 520, x="f32", weight="f8", y="f32", x_mode="layer_norm_quantize", eps=1e-6)),
    ],
)
def test_every_tactic_computes_the_same(module: Any, task: Task) -> None:
    """f32 sums in another order: 5e-6 of the largest."""
    inputs = _inputs(module, task)
    expected = _expected(module, task, inputs)
    tactics = _distinct(module, task)
    assert len(tactics) >= 3
    for tactic in tactics:
        for name, result in run_arrays(task, tactic, inputs).items():
            np.testing.assert_allclose(result, expected[name], rtol=1e-6, atol=5e-6 * np.abs(expected[name]).max())


@pytest.mark.parametrize("kind", float64.STATISTICS)
def test_statistics_are_those_of_what_was_stored(kind: float64.Statistics) -> None:
    """y is bf16: its rounding must be in the statistics, which are then exact but for f32 sums of 64 terms."""
    task = matmul.task(20, 200, 64, x="bf16", weight="bf16", y="bf16", bias=True, statistics=kind)
    result = run_arrays(task, matmul.tactics(task, "sm_87")[0], _inputs(matmul, task))
    expected = float64.row_statistics(decode(result["y"], "bf16"), kind)
    np.testing.assert_allclose(result["statistics"], expected, rtol=2e-6, atol=1e-6 * np.abs(expected).max())


def test_statistics_lead_to_the_norm_of_the_matrix_they_describe() -> None:
    """One matmul's moments, the next one's norm: as if the norm had seen the matrix (mean 40 times the deviation)."""
    first = matmul.task(24, 136, 64, x="f32", weight="f32", y="f32", bias=True, statistics="moments")
    inputs = _inputs(matmul, first)
    inputs["bias"] = (inputs["bias"] + 300.0).astype(np.float32)
    made = run_arrays(first, matmul.tactics(first, "interpreter")[0], inputs)
    second = matmul.task(24, 32, 136, x="f32", weight="f32", y="f32", x_mode="layer_norm", x_partials=3, eps=1e-6)
    weight = _inputs(matmul, second)["weight"]
    arrays = {"x": made["y"].reshape(24, 1, 136), "x_statistics": made["statistics"], "weight": weight}
    y = run_arrays(second, matmul.tactics(second, "interpreter")[0], arrays)["y"]
    expected = float64.layer_norm(made["y"].astype(np.float64), 1e-6) @ weight[0].astype(np.float64).T
    np.testing.assert_allclose(y, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("mode", "weight"),
    [
        ("plain", "f32"), ("layer_norm", "f32"), ("quantize", "i8"), ("layer_norm_quantize", "i8"),
        ("quantize", "f8"), ("layer_norm_quantize", "f8"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_finite_gives_results_that_are_not(mode: matvec.XMode, weight: DType, bad: float) -> None:
    task = matvec.task(24, 96, x="f32", weight=weight, y="f32", rows=2, x_mode=mode, eps=1e-6)
    inputs = _inputs(matvec, task)
    inputs["x"][0, 1, 77] = bad
    with np.errstate(all="ignore"):
        y = run_arrays(task, matvec.tactics(task, "interpreter")[0], inputs)["y"]
    assert np.isfinite(y[0, 0]).all()
    assert not np.isfinite(y[0, 1]).any()


@pytest.mark.parametrize("weight", ["i8", "f8"])
def test_a_range_that_is_not_finite_gives_results_that_are_not(weight: DType) -> None:
    """The producer's statistics of a row with NaN, then the matmul that rounds this row to 8 bits."""
    first = matmul.task(16, 64, 32, x="f32", weight="f32", y="f32", statistics="range")
    inputs = _inputs(matmul, first)
    inputs["x"][3, 0, 5] = np.nan
    second = matmul.task(16, 24, 64, x="f32", weight=weight, y="f32", x_mode="quantize", x_partials=1)
    with np.errstate(all="ignore"):
        made = run_arrays(first, matmul.tactics(first, "interpreter")[0], inputs)
        arrays = _inputs(matmul, second)
        arrays |= {"x": made["y"].reshape(16, 1, 64), "x_statistics": made["statistics"]}
        y = run_arrays(second, matmul.tactics(second, "interpreter")[0], arrays)["y"]
    assert not np.isfinite(y[3]).any()
    assert np.isfinite(np.delete(y, 3, axis=0)).all()


@pytest.mark.parametrize("weight", ["i8", "f8"])
def test_a_row_of_zeros_is_rounded_with_scale_one(weight: DType) -> None:
    task = matvec.task(24, 64, x="f32", weight=weight, y="f32", bias=True, x_mode="quantize")
    inputs = _inputs(matvec, task) | {"x": np.zeros((1, 1, 64), np.float32)}
    y = run_arrays(task, matvec.tactics(task, "interpreter")[0], inputs)["y"]
    np.testing.assert_array_equal(y[0], inputs["bias"])


@pytest.mark.parametrize(("rows", "n", "k"), FULL_SIZE)
@pytest.mark.parametrize("dtype", ["bf16", "i8", "f8"])
def test_tactics_of_full_size_matmuls(rows: int, n: int, k: int, dtype: Any) -> None:
    """No masks on K and N, whole pairs of statistics, and at most 16 rows of work thrown away at the end."""
    mode: matmul.XMode = "plain" if dtype == "bf16" else "quantized"
    task = matmul.task(rows, n, k, x=dtype, weight=dtype, y="bf16", x_mode=mode, statistics="moments")
    for target in TARGETS:
        for tactic in matmul.tactics(task, target):
            m, tail, block_n, block_k = (
                int(tactic.constants[name] or 0) for name in ("BLOCK_M", "TAIL_M", "BLOCK_N", "BLOCK_K")
            )
            assert n % block_n == 0 and k % block_k == 0 and block_n % 64 == 0
            assert rows <= rows // m * m + tail <= rows + 16
            assert matmul.grid(task, tactic) == (-(-rows // m) * (n // block_n), 1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": "bf16", "weight": "f32"}, "x bf16, weight f32 and x_mode 'plain' do not go together"),
        ({"x": "f32", "weight": "i8"}, "x f32, weight i8 and x_mode 'plain'"),
        ({"x": "i8", "weight": "i8", "x_mode": "quantize", "x_partials": 1}, "do not go together"),
        ({"x": "f8", "weight": "i8", "x_mode": "quantized"}, "x f8, weight i8"),
        ({"x": "f8", "weight": "f8"}, "x f8, weight f8 and x_mode 'plain'"),
        ({"weight": "f8", "x_mode": "layer_norm", "x_partials": 1}, "weight f8 and x_mode 'layer_norm'"),
        ({"activation": "tanh"}, "activation is 'tanh'"),
        ({"groups": 2, "statistics": "range"}, "groups 2"),
        ({"statistics": "mean"}, "statistics are 'mean'"),
        ({"x_mode": "layer_norm", "x_partials": 2}, "2 partial statistics of 64 columns do not cover k = 64"),
        ({"y": "i8"}, "y is i8"),
    ],
)
def test_matmul_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matmul.task(8, 16, 64, **{"x": "f32", "weight": "f32", "y": "f32", **options})


def test_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="2\\^31 elements or more"):
        matmul.task(1 << 16, 1 << 16, 64, x="f32", weight="f32", y="f32")
    with pytest.raises(ValueError, match="must be positive"):
        matmul.task(0, 16, 64, x="f32", weight="f32", y="f32")
    with pytest.raises(ValueError, match="no tactics for target 'sm_72'"):
        matmul.tactics(matmul.CASES[0], "sm_72")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 5}, "5 rows of 24 outputs"),
        ({"x_mode": "quantize"}, "x f32, weight f32 and x_mode 'quantize' do not go together"),
        ({"x": "i8", "weight": "i8"}, "do not go together"),
        ({"x": "f8", "weight": "i8", "x_mode": "quantized"}, "x f8, weight i8"),
        ({"weight": "f8"}, "weight f8 and x_mode 'plain'"),
        ({"x_mode": "norm"}, "x_mode is 'norm'"),
        ({"activation": "relu"}, "activation is 'relu'"),
        ({"residual": "i8"}, "the residual i8"),
        ({"batch": 0}, "batch 0"),
    ],
)
def test_matvec_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matvec.task(24, 64, **{"x": "f32", "weight": "f32", "y": "f32", **options})
