# SPDX-License-Identifier: Apache-2.0
"""Gradient of learned-query pooling, third of three: of the scores, the sums over tokens of dlogits times the tokens.

dscores[c] = sum over s of dlogits[s, c] n[s], with n the layer-normalised tokens; dlogits are the last columns of the
gradients that `learned_query_pool_backward_weights` makes.
"""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops.attention_blocks import matmul_tactics
from lightwam.kernels.task import Argument, DType, Tactic, Task, check_sizes


@triton.jit
def kernel(
    x,
    moments,
    gradients,
    dscores,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    SCORES: tl.constexpr,
    SKIPPED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    STEP: tl.constexpr = SKIPPED + SCORES
    score = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    batch = tl.program_id(2).to(tl.int64)
    used = (column < WIDTH)[None, :]
    accumulator = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, TOKENS, BLOCK_K):
        token = start + tl.arange(0, BLOCK_K)
        inside = token < TOKENS
        offsets = (batch * TOKENS + token)[None, :] * STEP + SKIPPED + score[:, None]
        change = tl.load(gradients + offsets, mask=inside[None, :] & (score < SCORES)[:, None], other=0.0)
        pair = moments + (batch * TOKENS + token) * 2
        mean = tl.load(pair, mask=inside, other=0.0)
        scale = tl.load(pair + 1, mask=inside, other=0.0)
        rows = (batch * TOKENS + token)[:, None] * WIDTH + column[None, :]
        block = tl.load(x + rows, mask=inside[:, None] & used, other=0.0).to(tl.float32)
        normal = (block - mean[:, None]) * scale[:, None]
        accumulator = tl.dot(change, normal, accumulator, input_precision="tf32x3")
    offsets = (batch * SCORES + score)[:, None] * WIDTH + column[None, :]
    tl.store(dscores + offsets, accumulator, mask=(score < SCORES)[:, None] & used)


def task(tokens: int, width: int, scores: int, *, skipped: int, x: DType, batch: int = 1) -> Task:
    """dscores f32 [batch, scores, width].

    x [batch, tokens, width] and moments f32 [batch, tokens, 2] (mean, 1 / deviation); gradients f32
    [batch, tokens, skipped + scores], of which the last `scores` columns count.
    """
    check_sizes("learned_query_pool_backward_scores", tokens=tokens, width=width, scores=scores, batch=batch)
    if skipped < 0:
        raise ValueError(f"learned_query_pool_backward_scores: {skipped} columns skipped; 0 or more are needed")
    arguments = (
        Argument("x", "r", x, (batch, tokens, width)),
        Argument("moments", "r", "f32", (batch, tokens, 2)),
        Argument("gradients", "r", "f32", (batch, tokens, skipped + scores)),
        Argument("dscores", "w", "f32", (batch, scores, width)),
    )
    constants = {"TOKENS": tokens, "WIDTH": width, "SCORES": scores, "SKIPPED": skipped}
    flops = 2 * batch * tokens * width * scores
    return Task("learned_query_pool_backward_scores", constants, arguments, flops, product_type="f32")


def tactics(task: Task, target: str) -> list[Tactic]:
    tokens, width, scores = (task.integer(name) for name in ("TOKENS", "WIDTH", "SCORES"))
    choices = ((256, 512, 256, 4, 1),) if target == "interpreter" else ((64, 64, 32, 4, 2), (32, 64, 32, 4, 2))
    return matmul_tactics(choices, scores, width, tokens)


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    batch, scores, width = task.shape("dscores")
    return (triton.cdiv(scores, tactic.integer("BLOCK_M")), triton.cdiv(width, tactic.integer("BLOCK_N")), batch)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    moments, skipped = arguments["moments"], task.integer("SKIPPED")
    normal = (arguments["x"] - moments[:, :, :1]) * moments[:, :, 1:]
    return {"dscores": arguments["gradients"][:, :, skipped:].transpose(0, 2, 1) @ normal}


CASES = [
    task(21, 72, 12, skipped=4, x="f32"),
    task(70, 192, 64, skipped=0, x="bf16", batch=2),
    task(33, 100, 70, skipped=3, x="f16", batch=2),
]
