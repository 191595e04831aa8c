# SPDX-License-Identifier: Apache-2.0
"""Gradient of learned-query pooling, second of three: of the tokens, through their layer norm.

With the factors F[c] (rows of dy, then of the scores) and their gradients G[s, c] as in
`learned_query_pool_backward_weights`: dn[s] = sum over c of G[s, c] F[c], and the norm takes off its mean and its part
along n: dx = (dn - mean(dn) - n mean(dn n)) / deviation. Both means are sums over c too, of G times the mean of F[c]
and of G times the products n F[c]; so one pass over the factors does it.
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
    factors,
    factor_means,
    products,
    gradients,
    dx,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    FACTORS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    token = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    batch = tl.program_id(2).to(tl.int64)
    inside = token < TOKENS
    used = (column < WIDTH)[None, :]
    accumulator = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    mean = tl.zeros((BLOCK_M,), tl.float32)
    along = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, FACTORS, BLOCK_K):
        factor = start + tl.arange(0, BLOCK_K)
        mask = inside[:, None] & (factor < FACTORS)[None, :]
        offsets = batch * (TOKENS * FACTORS) + token[:, None] * FACTORS + factor[None, :]
        change = tl.load(gradients + offsets, mask=mask, other=0.0)
        along += tl.sum(change * tl.load(products + offsets, mask=mask, other=0.0), 1)
        means = tl.load(factor_means + batch * FACTORS + factor, mask=factor < FACTORS, other=0.0)
        mean += tl.sum(change * means[None, :], 1)
        rows = batch * (FACTORS * WIDTH) + factor[:, None] * WIDTH + column[None, :]
        block = tl.load(factors + rows, mask=(factor < FACTORS)[:, None] & used, other=0.0)
        accumulator = tl.dot(change, block, accumulator, input_precision="tf32x3")
    pair = moments + (batch * TOKENS + token) * 2
    token_mean = tl.load(pair, mask=inside, other=0.0)
    scale = tl.load(pair + 1, mask=inside, other=0.0)
    offsets = (batch * TOKENS + token)[:, None] * WIDTH + column[None, :]
    mask = inside[:, None] & used
    normal = (tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32) - token_mean[:, None]) * scale[:, None]
    change = scale[:, None] * (accumulator - mean[:, None] - normal * (along / WIDTH)[:, None])
    tl.store(dx + offsets, change.to(dx.dtype.element_ty), mask=mask)


def task(tokens: int, width: int, factors: int, *, x: DType, batch: int = 1) -> Task:
    """dx [batch, tokens, width] in the format of x.

    x [batch, tokens, width] and moments f32 [batch, tokens, 2] (mean, 1 / deviation); factors f32
    [batch, factors, width] with factor_means f32 [batch, factors]; products and gradients f32 [batch, tokens, factors].
    """
    check_sizes("learned_query_pool_backward_tokens", tokens=tokens, width=width, factors=factors, batch=batch)
    arguments = (
        Argument("x", "r", x, (batch, tokens, width)),
        Argument("moments", "r", "f32", (batch, tokens, 2)),
        Argument("factors", "r", "f32", (batch, factors, width)),
        Argument("factor_means", "r", "f32", (batch, factors)),
        Argument("products", "r", "f32", (batch, tokens, factors)),
        Argument("gradients", "r", "f32", (batch, tokens, factors)),
        Argument("dx", "w", x, (batch, tokens, width)),
    )
    constants = {"TOKENS": tokens, "WIDTH": width, "FACTORS": factors}
    flops = 2 * batch * tokens * width * factors
    return Task("learned_query_pool_backward_tokens", constants, arguments, flops, product_type="f32")


def tactics(task: Task, target: str) -> list[Tactic]:
    tokens, width, factors = (task.integer(name) for name in ("TOKENS", "WIDTH", "FACTORS"))
    choices = ((256, 512, 256, 4, 1),) if target == "interpreter" else ((32, 64, 32, 4, 2), (64, 64, 32, 4, 2))
    return matmul_tactics(choices, tokens, width, factors)


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    batch, tokens, width = task.shape("dx")
    return (triton.cdiv(tokens, tactic.integer("BLOCK_M")), triton.cdiv(width, tactic.integer("BLOCK_N")), batch)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    x, moments, gradients = (arguments[name] for name in ("x", "moments", "gradients"))
    normal = (x - moments[:, :, :1]) * moments[:, :, 1:]
    mean = gradients @ arguments["factor_means"][:, :, None]
    along = (gradients * arguments["products"]).sum(-1, keepdims=True) / x.shape[-1]
    return {"dx": moments[:, :, 1:] * (gradients @ arguments["factors"] - mean - normal * along)}


CASES = [task(21, 72, 19, x="f32"), task(40, 192, 64, x="bf16", batch=2), task(33, 100, 70, x="f16", batch=2)]
