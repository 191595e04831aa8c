# SPDX-License-Identifier: Apache-2.0
"""Learned-query pooling, second half: softmax over the tokens, merge of queries, sum of tokens (`learned_query_pool`).

A program makes BLOCK_C columns of every head of one merge slot. A first pass over the logits [tokens, heads * queries],
which lie in the cache, gives the softmax's maximum and total of every query; a second makes each token's weight of a
head, the queries merged, and adds up the normalised tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops.attention_blocks import block_of
from lightwam.kernels.task import Argument, DType, Tactic, Task, check_sizes


@triton.jit
def _logits(pointers, start, token, inside, TOKENS: tl.constexpr, STEP: tl.constexpr):
    """Logits in base 2 of tokens start + token [T], as [T, heads, queries]; minus infinity past the last token."""
    values = tl.load(pointers + start * STEP, mask=(start + token < TOKENS)[:, None, None] & inside, other=0.0)
    return tl.where((start + token < TOKENS)[:, None, None], values * 1.4426950408889634, float("-inf"))


@triton.jit
def kernel(
    x,
    logits,
    moments,
    merge,
    y,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    QUERIES: tl.constexpr,  # of one head
    SLOTS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    slot = tl.program_id(1)
    pooler = tl.program_id(2)
    token = tl.arange(0, BLOCK_T)
    head = tl.arange(0, BLOCK_H)
    query = tl.arange(0, BLOCK_Q)
    STEP: tl.constexpr = HEADS * QUERIES
    inside = ((head < HEADS)[:, None] & (query < QUERIES)[None, :])[None, :, :]
    logits += pooler * (TOKENS * STEP)
    pointers = logits + token[:, None, None] * STEP + (head[:, None] * QUERIES + query[None, :])[None, :, :]

    maximum = tl.full((BLOCK_H, BLOCK_Q), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_H, BLOCK_Q), tl.float32)
    for start in range(0, TOKENS, BLOCK_T):
        block = _logits(pointers, start, token, inside, TOKENS, STEP)
        highest = tl.maximum(maximum, tl.max(block, 0))
        total = total * tl.exp2(maximum - highest) + tl.sum(tl.exp2(block - highest[None, :, :]), 0)
        maximum = highest
    merged = tl.load(merge + (pooler * SLOTS + slot) * QUERIES + query, mask=query < QUERIES, other=0.0)
    share = merged[None, :] / total

    accumulator = tl.zeros((BLOCK_C, BLOCK_H), tl.float32)
    for start in range(0, TOKENS, BLOCK_T):
        block = _logits(pointers, start, token, inside, TOKENS, STEP)
        weights = tl.sum(tl.exp2(block - maximum[None, :, :]) * share[None, :, :], 2)  # [T, heads]
        row = start + token
        mask = row < TOKENS
        pair = moments + (pooler * TOKENS + row) * 2
        mean = tl.load(pair, mask=mask, other=0.0)
        scale = tl.load(pair + 1, mask=mask, other=0.0)
        offsets = (pooler * TOKENS + row)[:, None] * WIDTH + column[None, :]
        tokens = tl.load(x + offsets, mask=mask[:, None] & (column < WIDTH)[None, :], other=0.0).to(tl.float32)
        normal = (tokens - mean[:, None]) * scale[:, None]
        accumulator = tl.dot(tl.trans(normal), weights, accumulator, input_precision="tf32x3")
    row = (pooler * SLOTS + slot) * HEADS + head
    mask = (column < WIDTH)[:, None] & (head < HEADS)[None, :]
    tl.store(y + row[None, :] * WIDTH + column[:, None], accumulator.to(y.dtype.element_ty), mask=mask)


def task(
    tokens: int, width: int, heads: int, queries: int, *, slots: int = 1, x: DType, y: DType, batch: int = 1
) -> Task:
    """y [batch, slots, heads, width]: y[m, h] = sum over tokens of (sum over q of merge[m, q] p[h, q, s]) LN(x)_s.

    p is the softmax over the tokens of logits f32 [batch, tokens, heads * queries]; these and moments f32
    [batch, tokens, 2] are written by `learned_query_scores` from x [batch, tokens, width]. merge f32
    [batch, slots, queries].
    """
    check_sizes("learned_query_sum", tokens=tokens, width=width, heads=heads, queries=queries, slots=slots, batch=batch)
    arguments = (
        Argument("x", "r", x, (batch, tokens, width)),
        Argument("logits", "r", "f32", (batch, tokens, heads * queries)),
        Argument("moments", "r", "f32", (batch, tokens, 2)),
        Argument("merge", "r", "f32", (batch, slots, queries)),
        Argument("y", "w", y, (batch, slots, heads, width)),
    )
    constants = {
        "TOKENS": tokens,
        "WIDTH": width,
        "HEADS": heads,
        "QUERIES": queries,
        "SLOTS": slots,
        "BLOCK_H": max(8, triton.next_power_of_2(heads)),
        "BLOCK_Q": triton.next_power_of_2(queries),
    }
    flops = 2 * batch * slots * tokens * width * heads
    return Task("learned_query_sum", constants, arguments, flops, product_type="f32")


def tactics(task: Task, target: str) -> list[Tactic]:
    tokens, width = task.integer("TOKENS"), task.integer("WIDTH")
    if target == "interpreter":
        return [Tactic({"BLOCK_T": block_of(tokens, 128), "BLOCK_C": block_of(width, 2048)}, 4, 1)]
    return [
        Tactic({"BLOCK_T": 16, "BLOCK_C": block_of(width, 64)}, 4, 2),
        Tactic({"BLOCK_T": block_of(tokens, 32), "BLOCK_C": block_of(width, 64)}, 4, 2),
        Tactic({"BLOCK_T": block_of(tokens, 32), "BLOCK_C": block_of(width, 128)}, 8, 2),
    ]


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    batch, slots, _, width = task.shape("y")
    return (triton.cdiv(width, tactic.integer("BLOCK_C")), slots, batch)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    x, moments = arguments["x"], arguments["moments"]
    logits = arguments["logits"].reshape(len(x), x.shape[1], task.integer("HEADS"), -1)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    normal = (x - moments[:, :, :1]) * moments[:, :, 1:]
    return {"y": np.einsum("bmq,bshq,bsd->bmhd", arguments["merge"], weights, normal)}


CASES = [
    task(21, 72, 4, 4, slots=2, x="f32", y="f32"),
    task(40, 192, 6, 16, x="f32", y="f32", batch=3),
    task(150, 100, 3, 5, slots=2, x="bf16", y="bf16", batch=2),
    task(33, 512, 9, 3, x="f16", y="f32"),
]
