# SPDX-License-Identifier: Apache-2.0
"""Gradient of `self_attention` with respect to its queries: the first of its two backward kernels.

With p the weights, recomputed from the logits and the saved logsumexp, and delta the product of a row of y and of its
gradient: ds = p (dy vᵀ - delta), dq = scale ds k (FlashAttention, arXiv 2205.14135). delta is kept for the second
kernel, `self_attention_backward_key`. A program makes BLOCK_M queries of one head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops.attention_blocks import (
    LOG2_E,
    WIDEST_BLOCK,
    Choice,
    attention_tactics,
    block_of,
    check_heads,
    load_rows,
    matmul_format,
    weights_tolerance,
)
from lightwam.kernels.task import Argument, Constant, DType, Mode, Tactic, Task


@triton.jit
def kernel(
    q,
    k,
    v,
    y,
    dy,
    logsumexp,
    dq,
    delta,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROW: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    MASKED: tl.constexpr = KEYS % BLOCK_N != 0
    first = tl.program_id(1) * WIDTH
    batch = tl.program_id(2).to(tl.int64)
    queries = batch * (QUERIES * ROW)
    k += batch * (KEYS * ROW)
    v += batch * (KEYS * ROW)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = row < QUERIES
    query = load_rows(q + queries, row, first, 0, QUERIES, ROW, WIDTH, BLOCK_D, True)
    gradient = load_rows(dy + queries, row, first, 0, QUERIES, ROW, WIDTH, BLOCK_D, True)
    made = load_rows(y + queries, row, first, 0, QUERIES, ROW, WIDTH, BLOCK_D, True)
    share = tl.sum(gradient.to(tl.float32) * made.to(tl.float32), 1)
    place = (batch * (ROW // WIDTH) + tl.program_id(1)) * QUERIES + row
    tl.store(delta + place, share, mask=inside)
    total = tl.load(logsumexp + place, mask=inside, other=0.0)
    accumulator = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in range(0, KEYS, BLOCK_N):
        key_row = start + tl.arange(0, BLOCK_N)
        key = load_rows(k, key_row, first, 0, KEYS, ROW, WIDTH, BLOCK_D, MASKED)
        value = load_rows(v, key_row, first, 0, KEYS, ROW, WIDTH, BLOCK_D, MASKED)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * (SCALE * 1.4426950408889634)
        if MASKED:
            scores = tl.where((key_row < KEYS)[None, :], scores, float("-inf"))
        weights = tl.exp2(scores - total[:, None])
        change = weights * (tl.dot(gradient, tl.trans(value), input_precision="ieee") - share[:, None])
        accumulator = tl.dot(change.to(key.dtype), key, accumulator, input_precision="ieee")
    column = tl.arange(0, BLOCK_D)
    mask = inside[:, None] & (column < WIDTH)[None, :]
    offsets = queries + row[:, None] * ROW + (first + column)[None, :]
    tl.store(dq + offsets, (accumulator * SCALE).to(dq.dtype.element_ty), mask=mask)


def task(queries: int, keys: int, heads: int, width: int, *, x: DType, scale: float, batch: int = 1) -> Task:
    """dq [batch, queries, heads * width] and delta f32 [batch, heads, queries], of q, y, dy and k, v in format `x`.

    q, y, dy are [batch, queries, heads * width], k and v [batch, keys, heads * width]; logsumexp f32
    [batch, heads, queries] in base 2, as `self_attention` writes it. A ValueError for heads of more than 256 columns.
    """
    sizes = {"batch": batch, "queries": queries, "keys": keys, "heads": heads, "width": width}
    names = (("q", "k", "v", "y", "dy", "logsumexp"), ("dq", "delta"))
    return backward_task("self_attention_backward_query", names, 3, sizes, x, scale)


def backward_task(
    kernel: str,
    names: tuple[Sequence[str], Sequence[str]],
    matmuls: int,
    sizes: Mapping[str, int],
    x: DType,
    scale: float,
) -> Task:
    """A backward kernel's task. names: of the arguments that are read, and written; matmuls: of queries and keys."""
    check_heads(kernel, WIDEST_BLOCK, scale, **sizes)
    batch, queries, keys, heads, width = (sizes[name] for name in ("batch", "queries", "keys", "heads", "width"))
    row, per_query = heads * width, ("logsumexp", "delta")
    modes: dict[str, Mode] = {**dict.fromkeys(names[0], "r"), **dict.fromkeys(names[1], "w")}
    arguments = tuple(
        Argument(name, mode, "f32", (batch, heads, queries))
        if name in per_query
        else Argument(name, mode, x, (batch, keys if name in ("k", "v", "dk", "dv") else queries, row))
        for name, mode in modes.items()
    )
    constants: dict[str, Constant] = {
        "QUERIES": queries,
        "KEYS": keys,
        "WIDTH": width,
        "ROW": row,
        "SCALE": scale,
        "BLOCK_D": block_of(width, WIDEST_BLOCK),
    }
    flops = 2 * matmuls * batch * queries * keys * row
    return Task(kernel, constants, arguments, flops, matmul_format(kernel, x))


def tactics(task: Task, target: str) -> list[Tactic]:
    wide = task.integer("BLOCK_D") > 128
    choices: tuple[Choice, ...]
    if target == "interpreter":
        choices = ((256, 128, 4, 1),)
    elif task.product_type == "f32":
        few = task.integer("BLOCK_D") <= 64
        choices = ((16, 16, 16, 1),) if wide else ((32, 32, 8, 1), (16, 16, 8, 1)) if few else ((16, 16, 8, 1),)
    elif wide:
        choices = ((32, 32, 4, 1), (64, 32, 8, 1))
    else:
        choices = ((64, 32, 4, 2), (64, 64, 4, 2), (128, 64, 8, 2))
    return attention_tactics(choices, task.integer("QUERIES"), task.integer("KEYS"))


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    batch, heads, queries = task.shape("delta")
    return (triton.cdiv(queries, tactic.integer("BLOCK_M")), heads, batch)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    q, k, v, y, dy = (split_heads(task, arguments[name]) for name in ("q", "k", "v", "y", "dy"))
    delta = (y * dy).sum(-1)
    _, change = weights_and_change(task, q, k, v, dy, arguments["logsumexp"], delta)
    dq = change @ k * task.real("SCALE")
    return {"dq": dq.transpose(0, 2, 1, 3).reshape(arguments["q"].shape), "delta": delta}


def split_heads(task: Task, x: Array) -> Array:
    """[batch, rows, heads * width] -> [batch, heads, rows, width]."""
    return x.reshape(*x.shape[:2], -1, task.integer("WIDTH")).transpose(0, 2, 1, 3)


def weights_and_change(
    task: Task, q: Array, k: Array, v: Array, dy: Array, logsumexp: Array, delta: Array
) -> tuple[Array, Array]:
    """The softmax's weights and the gradient of the logits, both [batch, heads, queries, keys]."""
    logits = q @ k.transpose(0, 1, 3, 2) * (task.real("SCALE") * LOG2_E)
    weights = np.exp2(logits - logsumexp[..., None])
    return weights, weights * (dy @ v.transpose(0, 1, 3, 2) - delta[..., None])


def tolerance(task: Task) -> float:
    """The logits' gradient is rounded once before its matmul."""
    return weights_tolerance(task, 1)


def example(task: Task, generator: np.random.Generator) -> dict[str, Array]:
    """logsumexp of a size that makes weights of at most about 1."""
    return {"logsumexp": generator.uniform(3.0, 6.0, task.shape("logsumexp"))}


CASES = [
    task(19, 40, 2, 24, x="f32", scale=0.2, batch=2),
    task(150, 33, 1, 16, x="f16", scale=0.25),
    task(70, 64, 2, 128, x="bf16", scale=0.09),
]
