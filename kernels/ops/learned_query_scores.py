# SPDX-License-Identifier: Apache-2.0
"""Learned-query pooling, first half: logits of every (head, query) for every token (`learned_query_pool`).

Logits are a matmul of the layer-normalised tokens and constant vectors. A program makes the logits of
BLOCK_M tokens: a first pass over them gives mean and variance, a second normalises them in f32 and multiplies. Tokens
come from device memory once; the second pass, and `learned_query_sum`, find them in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops.attention_blocks import matmul_tactics
from lightwam.kernels.ops.device import inverse_root
from lightwam.kernels.ops.reference import layer_norm
from lightwam.kernels.task import Argument, DType, Tactic, Task, check_sizes


@triton.jit
def kernel(
    x,
    scores,
    logits,
    moments,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,  # of all heads
    EPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    token = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    query = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    pooler = tl.program_id(2)
    inside = token < TOKENS
    k = tl.arange(0, BLOCK_K)
    # Rows past the end repeat the last one: their logits are finite, and dropped.
    row = tl.minimum(token, TOKENS - 1)
    start_x = x + pooler * (TOKENS * WIDTH) + row[:, None] * WIDTH + k[None, :]
    pointers = start_x
    mean = tl.zeros((BLOCK_M,), tl.float32)
    deviation = tl.zeros((BLOCK_M,), tl.float32)  # sum of squared deviations from the mean
    for start in range(0, WIDTH, BLOCK_K):
        if WIDTH % BLOCK_K == 0:
            block = tl.load(pointers).to(tl.float32)
            part_mean = tl.sum(block, 1) / BLOCK_K
            offset = block - part_mean[:, None]
            count = BLOCK_K
        else:
            mask = (start + k < WIDTH)[None, :]
            block = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
            count = tl.minimum(WIDTH - start, BLOCK_K)
            part_mean = tl.sum(block, 1) / count
            offset = tl.where(mask, block - part_mean[:, None], 0.0)
        # Sums over [0, start) and over this block make those over both.
        difference = part_mean - mean
        mean += difference * (count / (start + count))
        deviation += tl.sum(offset * offset, 1) + difference * difference * (start * (count / (start + count)))
        pointers += BLOCK_K
    scale = inverse_root(deviation / WIDTH + EPS)

    pointers = start_x
    score_row = tl.minimum(query, QUERIES - 1)
    score_pointers = scores + pooler * (QUERIES * WIDTH) + score_row[None, :] * WIDTH + k[:, None]
    accumulator = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, WIDTH, BLOCK_K):
        if WIDTH % BLOCK_K == 0:
            block = tl.load(pointers)
            vectors = tl.load(score_pointers)
        else:
            block = tl.load(pointers, mask=(start + k < WIDTH)[None, :], other=0.0)
            vectors = tl.load(score_pointers, mask=(start + k < WIDTH)[:, None], other=0.0)
        normal = (block.to(tl.float32) - mean[:, None]) * scale[:, None]
        accumulator = tl.dot(normal, vectors, accumulator, input_precision="tf32x3")
        pointers += BLOCK_K
        score_pointers += BLOCK_K
    offsets = pooler * (TOKENS * QUERIES) + token[:, None] * QUERIES + query[None, :]
    tl.store(logits + offsets, accumulator, mask=inside[:, None] & (query < QUERIES)[None, :])
    if tl.program_id(1) == 0:
        pair = moments + (pooler * TOKENS + token) * 2
        tl.store(pair, mean, mask=inside)
        tl.store(pair + 1, scale, mask=inside)


def task(tokens: int, width: int, heads: int, queries: int, *, x: DType, eps: float, batch: int = 1) -> Task:
    """logits f32 [batch, tokens, heads * queries] = LN(x) scoresᵀ, with scores f32 [batch, heads * queries, width].

    x [batch, tokens, width], one slice for each pooler. moments f32 [batch, tokens, 2]: a token's mean, and the factor
    1 / sqrt(variance + eps). Exact to f32 ("tf32x3": three matmuls of parts on the tensor cores).
    """
    check_sizes("learned_query_scores", tokens=tokens, width=width, heads=heads, queries=queries, batch=batch)
    if not eps > 0.0:
        raise ValueError(f"learned_query_scores: eps {eps}; a positive number is needed")
    arguments = (
        Argument("x", "r", x, (batch, tokens, width)),
        Argument("scores", "r", "f32", (batch, heads * queries, width)),
        Argument("logits", "w", "f32", (batch, tokens, heads * queries)),
        Argument("moments", "w", "f32", (batch, tokens, 2)),
    )
    constants = {"TOKENS": tokens, "WIDTH": width, "QUERIES": heads * queries, "EPS": eps}
    flops = 2 * batch * tokens * width * heads * queries
    return Task("learned_query_scores", constants, arguments, flops, product_type="f32")


def tactics(task: Task, target: str) -> list[Tactic]:
    tokens, width, queries = (task.integer(name) for name in ("TOKENS", "WIDTH", "QUERIES"))
    choices = ((16, 128, 64, 4, 2), (32, 128, 32, 4, 2), (32, 64, 64, 4, 2))
    return matmul_tactics(((512, 512, 256, 4, 1),) if target == "interpreter" else choices, tokens, queries, width)


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    batch, tokens, queries = task.shape("logits")
    return (triton.cdiv(tokens, tactic.integer("BLOCK_M")), triton.cdiv(queries, tactic.integer("BLOCK_N")), batch)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    x, eps = arguments["x"], task.real("EPS")
    factor = 1.0 / (x.var(-1) + eps) ** 0.5
    return {
        "logits": layer_norm(x, eps) @ arguments["scores"].transpose(0, 2, 1),
        "moments": np.stack([x.mean(-1), factor], -1),
    }


def example(task: Task, generator: np.random.Generator) -> dict[str, Array]:
    """Tokens whose mean is many times their deviation."""
    return {"x": 10.0 + generator.standard_normal(task.arguments[0].shape)}


CASES = [
    task(21, 72, 4, 4, x="f32", eps=1e-5),
    task(40, 192, 6, 16, x="f32", eps=1e-5, batch=3),
    task(17, 100, 3, 5, x="bf16", eps=1e-2, batch=2),
    task(33, 512, 1, 3, x="f16", eps=1e-5),
]
