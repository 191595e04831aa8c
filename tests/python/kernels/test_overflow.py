# SPDX-License-Identifier: Apache-2.0
"""What overflows or is not finite shows: no kernel's norm turns it into zeros, and no other row changes.

Squares of numbers above 1.8e19 are infinite in f32, and 1 / infinity is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers import kernel_parity as parity
from helpers.kernel_runs import run_arrays
from lightwam.kernels.formats import Array, decode, encode
from lightwam.kernels.ops import (
    conv2d,
    cross_attention_folded,
    learned_query_scores,
    learned_query_sum,
    matmul,
    matvec,
    quantize_rows,
    rms_norm_rope,
    row_norm,
    self_attention,
)
from lightwam.kernels.ops.reference import row_statistics
from lightwam.kernels.task import Task

HUGE = (2e19, 3e38)  # rows of +- them; of the first, a sum of two squares overflows
BAD = 1  # the row that is changed


def run(module: Any, task: Task, inputs: dict[str, Array]) -> dict[str, Array]:
    """What a task writes, as numbers."""
    written = run_arrays(task, module.tactics(task, "interpreter")[0], inputs)
    return {a.name: decode(written[a.name], a.dtype) for a in task.arguments if a.name in written}


def changed(task: Task, inputs: dict[str, Array], name: str, value: float, columns: slice) -> dict[str, Array]:
    """Inputs whose row BAD of argument `name` is +-value in some columns."""
    argument = next(a for a in task.arguments if a.name == name)
    x = decode(inputs[name], argument.dtype).copy()
    rows = x.reshape(-1, x.shape[-1])
    signs = np.where(np.arange(rows.shape[1]) % 2, 1.0, -1.0)
    rows[BAD, columns] = (signs * value)[columns]
    return {**inputs, name: encode(x, argument.dtype)}


def assert_only_bad_row_shows(seen: Array, before: Array) -> None:
    """Rows of [..., columns]: every number of row BAD is not finite, the others are as before."""
    rows, clean = (x.reshape(-1, x.shape[-1]) for x in (seen, before))
    assert not np.isfinite(rows[BAD]).any()
    np.testing.assert_array_equal(np.delete(rows, BAD, 0), np.delete(clean, BAD, 0))


NORMS = [
    (row_norm, row_norm.task(4, 24, kind="layer", x="f32", y="f32", eps=1e-6)),
    (row_norm, row_norm.task(4, 24, kind="rms", x="f32", y="f32", eps=1e-24, weight=True, activation="silu")),
    (row_norm, row_norm.task(4, 24, kind="rms", x="bf16", y="bf16", eps=1e-6, weight=True, activation="gelu")),
    (row_norm, row_norm.task(4, 24, kind="layer", x="bf16", y="f16", eps=1e-6, bias=True, activation="gelu_tanh")),
    (rms_norm_rope, rms_norm_rope.task(4, 2, 12, x="f32", y="f32", eps=1e-6)),
    (rms_norm_rope, rms_norm_rope.task(4, 2, 12, x="bf16", y="bf16", eps=1e-6)),
    (matvec, matvec.task(20, 40, x="f32", weight="f32", y="f32", rows=4, x_mode="layer_norm", eps=1e-6)),
    (matvec, matvec.task(20, 40, x="f32", weight="i8", y="f32", rows=4, x_mode="layer_norm_quantize", eps=1e-6)),
    (matvec, matvec.task(20, 40, x="bf16", weight="f8", y="f32", rows=4, x_mode="layer_norm_quantize", eps=1e-6)),
    (learned_query_scores, learned_query_scores.task(4, 24, 2, 3, x="f32", eps=1e-5)),
]


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize(("module", "task"), NORMS)
def test_a_row_whose_squares_overflow_is_not_finite(module: Any, task: Task, value: float) -> None:
    inputs = parity.inputs(task)
    before, seen = run(module, task, inputs), run(module, task, changed(task, inputs, "x", value, slice(None)))
    name = "logits" if module is learned_query_scores else "y"
    assert_only_bad_row_shows(seen[name], before[name])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("module", "task"), NORMS)
def test_one_number_of_a_row_that_is_not_finite_shows(module: Any, task: Task, value: float) -> None:
    inputs = parity.inputs(task)
    before, seen = run(module, task, inputs), run(module, task, changed(task, inputs, "x", value, slice(7, 8)))
    name = "logits" if module is learned_query_scores else "y"
    assert_only_bad_row_shows(seen[name], before[name])


@pytest.mark.parametrize("value", [*HUGE, np.nan, np.inf])
@pytest.mark.parametrize("y", ["i8", "f8"])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_a_normed_row_in_8_bits_has_a_scale_that_is_not_finite(kind: Any, y: Any, value: float) -> None:
    task = row_norm.task(4, 24, kind=kind, x="f32", y=y, eps=1e-6)
    inputs = parity.inputs(task)
    seen = run(row_norm, task, changed(task, inputs, "x", value, slice(None)))
    assert np.isfinite(seen["scale"]).reshape(-1).tolist() == [True, False, True, True]


def test_a_row_in_f16_that_overflowed_has_a_scale_that_is_not_finite() -> None:
    for y in ("i8", "f8"):
        task = quantize_rows.task(4, 24, x="f16", y=y)  # type: ignore[arg-type]
        inputs = parity.inputs(task)
        inputs["x"][BAD, 5] = np.float16(np.inf)
        assert np.isfinite(run(quantize_rows, task, inputs)["scale"]).tolist() == [True, False, True, True]


@pytest.mark.parametrize("value", [2e19, 1e30])
def test_the_norm_after_a_convolution(value: float) -> None:
    """Of pixels: only the residual is huge, in one of them."""
    task = conv2d.task(3, 4, 8, 8, kernel=(1, 1), x="f32", weight="f32", y="f32", residual="f32", norm="rms", z="f32")
    inputs = parity.inputs(task)
    before = run(conv2d, task, inputs)
    seen = run(conv2d, task, changed(task, inputs, "residual", value, slice(None)))
    assert_only_bad_row_shows(seen["z"], before["z"])
    assert np.isfinite(seen["y"]).all()


@pytest.mark.parametrize("value", [2e19, 1e30, np.nan, np.inf])
@pytest.mark.parametrize("weight", ["f32", "bf16"])
def test_the_layer_norm_before_a_matmul(weight: Any, value: float) -> None:
    """Its moments come from whoever wrote x, in f32: infinite."""
    task = matmul.task(20, 16, 64, x="f32", weight=weight, y="f32", x_mode="layer_norm", x_partials=1, eps=1e-6)
    inputs = parity.inputs(task)
    before = run(matmul, task, inputs)
    inputs = changed(task, inputs, "x", value, slice(None))
    with np.errstate(all="ignore"):
        inputs["x_statistics"][BAD] = row_statistics(inputs["x"].reshape(20, 64), "moments").astype(np.float32)[BAD]
    assert_only_bad_row_shows(run(matmul, task, inputs)["y"], before["y"])


@pytest.mark.parametrize("statistics", ["moments", "squares", "range"])
@pytest.mark.parametrize("y", ["f16", "f32"])
def test_statistics_of_a_row_that_overflowed_are_not_finite(y: Any, statistics: Any) -> None:
    """In f16 from 65504 on; in f32 squares from 1.8e19 on, and a range only with the numbers themselves."""
    task = matmul.task(20, 64, 32, x="f32", weight="f32", y=y, statistics=statistics)
    inputs = parity.inputs(task)
    value = 1e5 if y == "f16" else 1e38 if statistics == "range" else 1e30
    inputs = changed(task, inputs, "x", 3 * value, slice(None))
    seen = run(matmul, task, inputs)["statistics"].reshape(20, -1)
    bad = np.flatnonzero(~np.isfinite(seen).all(1))
    assert bad.tolist() == [BAD]


def attention(name: str) -> tuple[Any, Task]:
    if name == "self":
        options: Any = {"rope": True, "eps": 1e-6, "partials": 1}
        return self_attention, self_attention.task(6, 2, 16, x="bf16", y="f32", scale=0.25, **options)
    options = {"rms": True, "eps": 1e-6, "partials": 1}
    return cross_attention_folded, cross_attention_folded.task(
        6, 2, 16, 24, 5, 1, x="bf16", y="f32", scale=0.2, **options
    )


@pytest.mark.parametrize("name", ["self", "folded"])
@pytest.mark.parametrize("square", [np.inf, np.nan])
def test_a_query_whose_squares_overflow_is_not_finite(name: str, square: float) -> None:
    module, task = attention(name)
    inputs = parity.inputs(task)
    before = run(module, task, inputs)
    inputs["q_statistics"][BAD, 0] = square
    assert_only_bad_row_shows(run(module, task, inputs)["y"], before["y"])


def test_a_key_whose_squares_overflow_shows_in_every_row() -> None:
    module, task = attention("self")
    inputs = parity.inputs(task)
    inputs["k_statistics"][BAD, 0] = np.inf
    assert not np.isfinite(run(module, task, inputs)["y"]).any()


def test_a_token_that_overflows_shows_in_the_pooling() -> None:
    """Both halves: its logits and its moments are not finite, and so is what is summed."""
    scores = learned_query_scores.task(5, 24, 2, 3, x="f32", eps=1e-5)
    pool = learned_query_sum.task(5, 24, 2, 3, x="f32", y="f32", slots=2)
    inputs = changed(scores, parity.inputs(scores), "x", 1e30, slice(None))
    made = run_arrays(scores, learned_query_scores.tactics(scores, "interpreter")[0], inputs)
    y = run(learned_query_sum, pool, {**parity.inputs(pool), "x": inputs["x"], **made})["y"]
    assert not np.isfinite(y).any()
