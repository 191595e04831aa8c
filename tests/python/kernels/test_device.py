# SPDX-License-Identifier: Apache-2.0
"""Device functions that kernels share, in the interpreter, beside their references in float64."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import triton
import triton.language as tl

from helpers.kernel_runs import run_arrays
from lightwam.kernels.formats import Array
from lightwam.kernels.ops import reference as float64
from lightwam.kernels.ops.device import activate, eight_bit_scale, round_even, round_to_eight_bits
from lightwam.kernels.task import Argument, Tactic, Task

COUNT = 4096


@triton.jit
def kernel(x, y, rounded, scale, zero, code, ACTIVATION: tl.constexpr, COUNT: tl.constexpr):
    index = tl.arange(0, COUNT)
    value = tl.load(x + index)
    tl.store(y + index, activate(value, ACTIVATION))
    tl.store(rounded + index, round_even(value))
    # The row of two values, 3 and this one.
    row_scale, inverse, row_zero = eight_bit_scale(tl.minimum(value, 3.0), tl.maximum(value, 3.0))
    tl.store(scale + index, row_scale)
    tl.store(zero + index, row_zero)
    tl.store(code + index, round_to_eight_bits(value, inverse, row_zero))


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    return (1, 1, 1)


@pytest.fixture(autouse=True)
def _this_module_as_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightwam.kernels.ops.probe", sys.modules[__name__])


def _run(x: Array, activation: str) -> dict[str, Array]:
    written = {name: Argument(name, "w", "f32", (COUNT,)) for name in ("y", "rounded", "scale", "zero")}
    arguments = (Argument("x", "r", "f32", (COUNT,)), *written.values(), Argument("code", "w", "i8", (COUNT,)))
    task = Task("probe", {"ACTIVATION": activation, "COUNT": COUNT}, arguments, flops=0)
    with np.errstate(all="ignore"):  # exponentials of large arguments are meant to overflow
        return run_arrays(task, Tactic({}), {"x": x})


@pytest.mark.parametrize("activation", float64.ACTIVATIONS)
def test_activations_from_tiny_to_huge(activation: str) -> None:
    """f32 to a few steps of the value itself, also in the far tail; exact limits where the exponential overflows."""
    x = np.concatenate([np.linspace(-9, 9, COUNT - 8), [-1e4, 1e4, -1e15, 1e15, -1e-30, 1e-30, 0.0, -88.0]])
    x = x.astype(np.float32)
    with np.errstate(all="ignore"):
        expected = float64.activate(x.astype(np.float64), activation)
    np.testing.assert_allclose(_run(x, activation)["y"], expected, rtol=2e-6, atol=5e-7)


def test_nan_stays_nan() -> None:
    for activation in float64.ACTIVATIONS:
        assert np.isnan(_run(np.full(COUNT, np.nan, np.float32), activation)["y"]).all()


def test_rounding_to_even_and_to_eight_bits() -> None:
    ties = np.arange(-600, 600, dtype=np.float32) + np.float32(0.5)
    rest = np.random.default_rng(5).uniform(-3e6, 3e6, COUNT - len(ties)).astype(np.float32)
    x = np.concatenate([ties, rest])
    result = _run(x, "none")
    np.testing.assert_array_equal(result["rounded"], np.rint(x))
    wide = x.astype(np.float64)
    scale, zero = float64.eight_bit_scale(np.minimum(wide, 3.0), np.maximum(wide, 3.0))
    np.testing.assert_allclose(result["scale"], scale, rtol=3e-7)
    assert (np.abs(result["zero"] - zero) <= 1).all()
    # The value is an end of the range: its code is the last one, but for the rounding of zero.
    np.testing.assert_allclose(result["code"], float64.round_to_eight_bits(wide[:, None], scale, zero)[:, 0], atol=1)


def test_scale_of_a_range_that_overflows_or_is_nothing() -> None:
    x = np.zeros(COUNT, np.float32)
    x[:2] = [np.inf, -np.inf]
    assert np.isinf(_run(x, "none")["scale"][:2]).all()
    x = np.full(COUNT, -3.3e38, np.float32)
    assert np.isfinite(_run(x, "none")["scale"]).all()
