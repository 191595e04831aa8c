# SPDX-License-Identifier: Apache-2.0
"""Rows of q and k on their way into attention: as stored, or RMS-normalised and rotated (as `rms_norm_rope` does)."""

from __future__ import annotations

import triton
import triton.language as tl

from lightwam.kernels.ops.attention_blocks import load_rows
from lightwam.kernels.ops.device import combine_squares


@triton.jit
def reciprocal_rms(
    statistics,
    rows,
    TOKENS: tl.constexpr,
    ROW: tl.constexpr,
    EPS: tl.constexpr,
    PARTIALS: tl.constexpr,
    STRIDE: tl.constexpr,
):
    """1 / sqrt(mean square + EPS) of rows of ROW columns from their partial sums of squares. [rows]."""
    squares = combine_squares(statistics, tl.minimum(rows, TOKENS - 1), STRIDE, PARTIALS)
    return tl.rsqrt(squares / ROW + EPS)


@triton.jit
def _rotated(
    x,
    scale,
    rows,
    first,
    start,
    weight,
    cos,
    sin,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """x [BLOCK, BLOCK_D] times scale [BLOCK] and weight [BLOCK_D], its pairs of columns turned; in the format of x."""
    within = start + tl.arange(0, BLOCK_D)
    weights = tl.load(weight + first + within, mask=within < WIDTH, other=0.0)
    normal = x.to(tl.float32) * scale[:, None] * weights[None, :]
    even, odd = tl.split(tl.reshape(normal, (BLOCK, BLOCK_D // 2, 2)))
    pair = start // 2 + tl.arange(0, BLOCK_D // 2)
    mask = (rows < TOKENS)[:, None] & (pair < WIDTH // 2)[None, :]
    offsets = rows[:, None] * (WIDTH // 2) + pair[None, :]
    cosine = tl.load(cos + offsets, mask=mask, other=0.0)
    sine = tl.load(sin + offsets, mask=mask, other=0.0)
    turned = tl.join(even * cosine - odd * sine, even * sine + odd * cosine)
    return tl.reshape(turned, (BLOCK, BLOCK_D)).to(x.dtype)


@triton.jit
def prepared_rows(
    x,
    scale,
    rows,
    first,
    start,
    weight,
    cos,
    sin,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    ROPE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MASK_ROWS: tl.constexpr,
):
    """Columns from `start` on of a head of q or k, as stored or normalised by `scale` and turned. [BLOCK, BLOCK_D]."""
    block = load_rows(x, rows, first, start, TOKENS, ROW_STRIDE, WIDTH, BLOCK_D, MASK_ROWS)
    if ROPE:
        block = _rotated(block, scale, rows, first, start, weight, cos, sin, TOKENS, WIDTH, BLOCK, BLOCK_D)
    return block
