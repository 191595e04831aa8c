# SPDX-License-Identifier: Apache-2.0
"""Attention and pooling where random cases don't reach: limits of the arithmetic, and what the kernels refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from helpers.kernel_runs import run_arrays
from lightwam.kernels.formats import Array, decode, encode
from lightwam.kernels.ops import (
    cross_attention,
    cross_attention_folded,
    learned_query_scores,
    learned_query_sum,
    mean_pool,
    rms_norm_rope,
    self_attention,
)
from lightwam.kernels.task import Task


def _run(module: ModuleType, task: Task, arguments: Mapping[str, Array], target: str) -> dict[str, Array]:
    stored = {a.name: encode(arguments[a.name], a.dtype) for a in task.arguments if a.mode == "r"}
    written = run_arrays(task, module.tactics(task, target)[0], stored)
    return {a.name: decode(written[a.name], a.dtype) for a in task.arguments if a.mode == "w"}


def _normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def _random_arguments(task: Task) -> dict[str, Array]:
    read = [argument for argument in task.arguments if argument.mode == "r"]
    return {argument.name: _normal(*(argument.shape or ()), seed=seed) for seed, argument in enumerate(read)}


@pytest.mark.parametrize("target", ["interpreter", "sm_87"])
def test_logits_beyond_the_range_of_exponentials(target: str) -> None:
    """Logits of some thousands: the softmax takes its maximum off first, in the last block of keys too."""
    task = self_attention.task(70, 1, 16, x="f32", y="f32", scale=30.0)
    arguments = {name: 3.0 * value for name, value in _random_arguments(task).items()}
    arguments["k"][69] *= 5.0
    y = _run(self_attention, task, arguments, target)["y"]
    exact = {name: encode(value, "f32").astype(np.float64) for name, value in arguments.items()}
    # A logit of 5000 has a step of 5e-4 in f32, so weights are that far off at worst.
    np.testing.assert_allclose(y, self_attention.reference(task, exact)["y"], atol=1e-2)


@pytest.mark.parametrize("module", [cross_attention, cross_attention_folded])
@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_only_the_keys_in_use_are_read(module: ModuleType, count: int) -> None:
    """One key more or less than a block, the fewest and all; the rows past them hold NaN."""
    folded = (8,) if module is cross_attention_folded else ()
    task = module.task(5, 2, 8, *folded, 40, 1, x="f32", y="f32", scale=0.5)
    arguments = _random_arguments(task)
    for name in ("key_text", "value_text", "output_text", "key_bias"):
        if name in arguments:
            arguments[name][count:] = np.nan
    arguments["key_count"] = np.array([count])
    for target in ("interpreter", "sm_87"):
        y = _run(module, task, arguments, target)["y"]
        np.testing.assert_allclose(y, module.reference(task, arguments)["y"], atol=1e-5)


def test_a_wrong_number_of_keys_reads_no_further_than_the_keys() -> None:
    task = cross_attention.task(5, 2, 8, 6, 0, x="f32", y="f32", scale=0.5)
    arguments = _random_arguments(task)
    arguments["key_count"] = np.array([1000])
    y = _run(cross_attention, task, arguments, "sm_87")["y"]
    np.testing.assert_allclose(y, cross_attention.reference(task, arguments)["y"], atol=1e-5)


@pytest.mark.parametrize("x", ["f32", "bf16"])
def test_what_is_not_finite_stays_visible(x: Any) -> None:
    """A NaN or infinity among the keys makes every row of its head NaN, and no other head."""
    task = self_attention.task(20, 2, 16, x=x, y="f32", scale=0.25)
    for value in (np.nan, np.inf):
        arguments = _random_arguments(task)
        arguments["k"][19, 3] = value
        y = _run(self_attention, task, arguments, "sm_87")["y"]
        if np.isnan(value):
            assert np.isnan(y[:, :16]).all()
        else:
            # exp(-infinity) is 0: rows whose query is negative there leave the key out.
            assert np.isnan(y[:, :16]).any()
        assert np.isfinite(y[:, 16:]).all()


def test_pooling_in_two_launches() -> None:
    """What the first writes, the second reads: together they are `learned_query_pool` of engine-format 4."""
    tokens, width, heads, queries, slots = 50, 72, 4, 4, 2
    x, scores = 4.0 + _normal(tokens, width), _normal(heads * queries, width, seed=1) / 4.0
    merge = _normal(slots, queries, seed=2)
    first = learned_query_scores.task(tokens, width, heads, queries, x="f32", eps=1e-5)
    halfway = _run(learned_query_scores, first, {"x": x[None], "scores": scores[None]}, "interpreter")
    second = learned_query_sum.task(tokens, width, heads, queries, slots=slots, x="f32", y="f32")
    y = _run(learned_query_sum, second, {"x": x[None], "merge": merge[None], **halfway}, "interpreter")["y"][0]
    normal = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    weights = np.exp(normal @ scores.T)
    weights /= weights.sum(0)
    merged = np.einsum("mq,shq->mhs", merge, weights.reshape(tokens, heads, queries))
    np.testing.assert_allclose(y, merged @ normal, atol=1e-5)


_REFUSED: list[Callable[[], Task]] = [
    lambda: self_attention.task(0, 1, 16, x="f32", y="f32", scale=1.0),
    lambda: self_attention.task(8, 1, 1024, x="f32", y="f32", scale=1.0),
    lambda: self_attention.task(8, 1, 16, x="i8", y="f32", scale=1.0),
    lambda: self_attention.task(8, 1, 16, x="f32", y="f32", scale=0.0),
    lambda: self_attention.task(8, 2, 16, x="f32", y="f32", scale=1.0, row_stride=16),
    lambda: self_attention.task(8, 2, 16, x="f32", y="f32", scale=1.0, statistics="range"),
    lambda: self_attention.task(8, 2, 64, x="f32", y="f32", scale=1.0, rope=True, eps=1e-6, partials=1),
    lambda: cross_attention.task(8, 1, 16, 0, 1, x="f32", y="f32", scale=1.0),
    lambda: cross_attention.task(8, 1, 512, 4, 1, x="f32", y="f32", scale=1.0),
    lambda: cross_attention.task(8, 1, 16, 4, 1, x="f32", y="f32", scale=float("inf")),
    lambda: cross_attention_folded.task(8, 1, 16, 16, 4, -1, x="f32", y="f32", scale=1.0),
    lambda: cross_attention_folded.task(8, 1, 16, 16, 4, 1, x="f32", y="f32", scale=1.0, rms=True, partials=2),
    lambda: learned_query_scores.task(8, 16, 1, 4, x="f32", eps=0.0),
    lambda: learned_query_sum.task(8, 16, 1, 4, slots=0, x="f32", y="f32"),
    lambda: mean_pool.task(0, 16, x="f32", y="f32"),
    lambda: rms_norm_rope.task(8, 2, 15, x="f32", y="f32", eps=1e-6),
]


@pytest.mark.parametrize("make", _REFUSED)
def test_what_a_kernel_cannot_do_is_refused_in_one_line(make: Callable[[], Task]) -> None:
    with pytest.raises(ValueError, match=r"^(self_|cross_|learned_|mean_|rms_)\w+: [^\n]+$"):
        make()
