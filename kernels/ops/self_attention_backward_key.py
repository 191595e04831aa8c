# SPDX-License-Identifier: Apache-2.0
"""Gradients of `self_attention` with respect to its keys and values: the second of its two backward kernels.

With p and delta as in `self_attention_backward_query`: dv = pᵀ dy, ds = p (dy vᵀ - delta), dk = scale dsᵀ q. A program
makes BLOCK_N keys of one head and goes over all queries, so nothing is added up between programs.
"""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops.attention_blocks import Choice, attention_tactics, load_rows, weights_tolerance
from lightwam.kernels.ops.self_attention_backward_query import backward_task, split_heads, weights_and_change
from lightwam.kernels.task import DType, Tactic, Task


@triton.jit
def kernel(
    q,
    k,
    v,
    dy,
    logsumexp,
    delta,
    dk,
    dv,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROW: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    MASKED: tl.constexpr = QUERIES % BLOCK_M != 0
    first = tl.program_id(1) * WIDTH
    batch = tl.program_id(2).to(tl.int64)
    keys = batch * (KEYS * ROW)
    q += batch * (QUERIES * ROW)
    dy += batch * (QUERIES * ROW)
    per_query = (batch * (ROW // WIDTH) + tl.program_id(1)) * QUERIES
    key_row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    key = load_rows(k + keys, key_row, first, 0, KEYS, ROW, WIDTH, BLOCK_D, True)
    value = load_rows(v + keys, key_row, first, 0, KEYS, ROW, WIDTH, BLOCK_D, True)
    key_sum = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    value_sum = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, QUERIES, BLOCK_M):
        row = start + tl.arange(0, BLOCK_M)
        query = load_rows(q, row, first, 0, QUERIES, ROW, WIDTH, BLOCK_D, MASKED)
        gradient = load_rows(dy, row, first, 0, QUERIES, ROW, WIDTH, BLOCK_D, MASKED)
        # Rows past the end: all zeros, so weights of 1 times gradients of 0.
        total = tl.load(logsumexp + per_query + row, mask=row < QUERIES, other=0.0)
        share = tl.load(delta + per_query + row, mask=row < QUERIES, other=0.0)
        scores = tl.dot(key, tl.trans(query), input_precision="ieee") * (SCALE * 1.4426950408889634)
        weights = tl.exp2(scores - total[None, :])
        value_sum = tl.dot(weights.to(gradient.dtype), gradient, value_sum, input_precision="ieee")
        change = weights * (tl.dot(value, tl.trans(gradient), input_precision="ieee") - share[None, :])
        key_sum = tl.dot(change.to(query.dtype), query, key_sum, input_precision="ieee")
    column = tl.arange(0, BLOCK_D)
    mask = (key_row < KEYS)[:, None] & (column < WIDTH)[None, :]
    offsets = keys + key_row[:, None] * ROW + (first + column)[None, :]
    tl.store(dk + offsets, (key_sum * SCALE).to(dk.dtype.element_ty), mask=mask)
    tl.store(dv + offsets, value_sum.to(dv.dtype.element_ty), mask=mask)


def task(queries: int, keys: int, heads: int, width: int, *, x: DType, scale: float, batch: int = 1) -> Task:
    """dk and dv [batch, keys, heads * width], of q, dy [batch, queries, heads * width] and k, v, all in format `x`.

    logsumexp (base 2) and delta are f32 [batch, heads, queries], from `self_attention` and
    `self_attention_backward_query`. A ValueError for heads of more than 256 columns.
    """
    sizes = {"batch": batch, "queries": queries, "keys": keys, "heads": heads, "width": width}
    names = (("q", "k", "v", "dy", "logsumexp", "delta"), ("dk", "dv"))
    return backward_task("self_attention_backward_key", names, 4, sizes, x, scale)


def tactics(task: Task, target: str) -> list[Tactic]:
    wide = task.integer("BLOCK_D") > 128
    choices: tuple[Choice, ...]
    if target == "interpreter":
        choices = ((128, 256, 4, 1),)
    elif task.product_type == "f32":
        choices = ((16, 16, 4, 1),) if wide else ((32, 32, 8, 1), (16, 16, 4, 1))
    elif wide:
        choices = ((32, 32, 8, 1), (16, 32, 4, 1))
    else:
        choices = ((32, 64, 8, 2), (64, 64, 8, 2), (32, 64, 4, 2))
    return attention_tactics(choices, task.integer("QUERIES"), task.integer("KEYS"))


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    batch, heads, _ = task.shape("delta")
    return (triton.cdiv(task.integer("KEYS"), tactic.integer("BLOCK_N")), heads, batch)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    q, k, v, dy = (split_heads(task, arguments[name]) for name in ("q", "k", "v", "dy"))
    weights, change = weights_and_change(task, q, k, v, dy, arguments["logsumexp"], arguments["delta"])
    dk = change.transpose(0, 1, 3, 2) @ q * task.real("SCALE")
    dv = weights.transpose(0, 1, 3, 2) @ dy
    shape = arguments["k"].shape
    return {"dk": dk.transpose(0, 2, 1, 3).reshape(shape), "dv": dv.transpose(0, 2, 1, 3).reshape(shape)}


def tolerance(task: Task) -> float:
    """The weights and the logits' gradient are rounded once before their matmuls."""
    return weights_tolerance(task, 1)


CASES = [
    task(19, 40, 2, 24, x="f32", scale=0.2, batch=2),
    task(150, 33, 1, 16, x="f16", scale=0.25),
    task(70, 64, 2, 128, x="bf16", scale=0.09),
]
