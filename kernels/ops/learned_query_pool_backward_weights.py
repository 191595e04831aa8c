# SPDX-License-Identifier: Apache-2.0
"""Gradient of learned-query pooling, first of three: from products with the tokens to gradients of the logits.

Pooling is y[m, h] = sum over s of w[s, m, h] n[s], with n the layer-normalised tokens, w[s, m, h] the sum over q of
merge[m, q] p[h, q, s], and p the softmax over s of the logits n[s] scores[h, q]. `learned_query_scores` makes, in one
go, the products of n with dy (g[s, m, h]) and with the scores (the logits). From these, a program makes for one head
    dmerge[m, q] = sum over s of p g        dlogits = p (sum over m of merge[m, q] (g[m] - dmerge[m, q]))
and the weights w; `learned_query_pool_backward_tokens` and `learned_query_pool_backward_scores` do the rest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops.attention_blocks import block_of
from lightwam.kernels.task import Argument, Tactic, Task, check_sizes


@triton.jit
def kernel(
    products,
    merge,
    gradients,
    dmerge,
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
    QUERIES: tl.constexpr,  # of one head
    SLOTS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    STEP: tl.constexpr = SLOTS * HEADS + HEADS * QUERIES
    head = tl.program_id(0)
    batch = tl.program_id(1)
    token = tl.arange(0, BLOCK_T)
    slot = tl.arange(0, BLOCK_S)
    query = tl.arange(0, BLOCK_Q)
    slot_used = (slot < SLOTS)[None, :]
    query_used = (query < QUERIES)[None, :]
    base = batch.to(tl.int64) * (TOKENS * STEP)
    slots = base + token[:, None] * STEP + (slot * HEADS + head)[None, :]
    queries = base + token[:, None] * STEP + (SLOTS * HEADS + head * QUERIES + query)[None, :]

    maximum = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    for start in range(0, TOKENS, BLOCK_T):
        inside = (start + token < TOKENS)[:, None]
        logits = tl.load(products + queries + start * STEP, mask=inside & query_used, other=0.0) * 1.4426950408889634
        logits = tl.where(inside, logits, float("-inf"))
        highest = tl.maximum(maximum, tl.max(logits, 0))
        total = total * tl.exp2(maximum - highest) + tl.sum(tl.exp2(logits - highest[None, :]), 0)
        maximum = highest

    sums = tl.zeros((BLOCK_S, BLOCK_Q), tl.float32)
    for start in range(0, TOKENS, BLOCK_T):
        inside = (start + token < TOKENS)[:, None]
        logits = tl.load(products + queries + start * STEP, mask=inside & query_used, other=0.0) * 1.4426950408889634
        weights = tl.where(inside, tl.exp2(logits - maximum[None, :]) / total[None, :], 0.0)
        change = tl.load(products + slots + start * STEP, mask=inside & slot_used, other=0.0)
        sums += tl.sum(change[:, :, None] * weights[:, None, :], 0)
    both = (slot < SLOTS)[:, None] & query_used
    place = slot[:, None] * QUERIES + query[None, :]
    tl.store(dmerge + (batch * HEADS + head) * (SLOTS * QUERIES) + place, sums, mask=both)
    merged = tl.load(merge + batch * (SLOTS * QUERIES) + place, mask=both, other=0.0)
    share = tl.sum(merged * sums, 0)  # [Q]: the sum over tokens of p times its gradient

    for start in range(0, TOKENS, BLOCK_T):
        inside = (start + token < TOKENS)[:, None]
        logits = tl.load(products + queries + start * STEP, mask=inside & query_used, other=0.0) * 1.4426950408889634
        weights = tl.exp2(logits - maximum[None, :]) / total[None, :]
        change = tl.load(products + slots + start * STEP, mask=inside & slot_used, other=0.0)
        mixed = tl.sum(weights[:, None, :] * merged[None, :, :], 2)  # [T, slots]
        gradient = weights * (tl.sum(change[:, :, None] * merged[None, :, :], 1) - share[None, :])
        tl.store(gradients + slots + start * STEP, mixed, mask=inside & slot_used)
        tl.store(gradients + queries + start * STEP, gradient, mask=inside & query_used)


def task(tokens: int, heads: int, queries: int, *, slots: int = 1, batch: int = 1) -> Task:
    """gradients f32 [batch, tokens, C], dmerge f32 [batch, heads, slots, queries], with C = heads * (slots + queries).

    products f32 [batch, tokens, C]: columns m * heads + h are g[m, h], columns heads * slots + h * queries + q logits;
    in `gradients` these are w[m, h] and dlogits. dmerge is a part for every head. merge f32 [batch, slots, queries].
    """
    check_sizes(
        "learned_query_pool_backward_weights", tokens=tokens, heads=heads, queries=queries, slots=slots, batch=batch
    )
    columns = heads * (slots + queries)
    arguments = (
        Argument("products", "r", "f32", (batch, tokens, columns)),
        Argument("merge", "r", "f32", (batch, slots, queries)),
        Argument("gradients", "w", "f32", (batch, tokens, columns)),
        Argument("dmerge", "w", "f32", (batch, heads, slots, queries)),
    )
    constants = {
        "TOKENS": tokens,
        "HEADS": heads,
        "QUERIES": queries,
        "SLOTS": slots,
        "BLOCK_S": triton.next_power_of_2(slots),
        "BLOCK_Q": triton.next_power_of_2(queries),
    }
    return Task("learned_query_pool_backward_weights", constants, arguments, 0)


def tactics(task: Task, target: str) -> list[Tactic]:
    tokens = task.integer("TOKENS")
    if target == "interpreter":
        return [Tactic({"BLOCK_T": block_of(tokens, 512)}, 4, 1)]
    return [Tactic({"BLOCK_T": block_of(tokens, most)}, 4, 1) for most in (64, 32)]


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    batch, heads = task.shape("dmerge")[:2]
    return (heads, batch, 1)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    products, merge = arguments["products"], arguments["merge"]
    heads, slots = (task.integer(name) for name in ("HEADS", "SLOTS"))
    change = products[:, :, : slots * heads].reshape(*products.shape[:2], slots, heads)
    logits = products[:, :, slots * heads :].reshape(*products.shape[:2], heads, -1)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    dmerge = np.einsum("bshq,bsmh->bhmq", weights, change)
    mixed = np.einsum("bmq,bshq->bsmh", merge, weights)
    raw = np.einsum("bmq,bsmh->bshq", merge, change)
    gradient = weights * (raw - (weights * raw).sum(1, keepdims=True))
    flat = [x.reshape(*products.shape[:2], -1) for x in (mixed, gradient)]
    return {"gradients": np.concatenate(flat, -1), "dmerge": dmerge}


CASES = [task(21, 4, 4, slots=2), task(70, 3, 5, slots=3, batch=2), task(150, 2, 16, batch=3)]
