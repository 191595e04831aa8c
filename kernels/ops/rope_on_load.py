# SPDX-License-Identifier: Apache-2.0
"""Rows of q and k on their way into attention: as stored, or RMS-normalised and rotated (as `rms_norm_rope` does).

a: the arguments of `self_attention.kernel`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lightwam.kernels.ops.attention_blocks import load_rows
from lightwam.kernels.ops.device import combine_squares, inverse_root


@triton.jit
def reciprocal_rms(a, statistics, rows, TOKENS: tl.constexpr):
    """1 / sqrt(mean square + EPS) of rows of ROW columns from their partial sums of squares. [rows]."""
    squares = combine_squares(statistics, tl.minimum(rows, TOKENS - 1), a.STATISTICS_STRIDE, a.PARTIALS)
    return inverse_root(squares / a.ROW + a.EPS)


@triton.jit
def _rotated(a, x, scale, rows, first, start, weight, TOKENS: tl.constexpr, BLOCK: tl.constexpr):
    """x [BLOCK, BLOCK_D] times scale [BLOCK] and weight [BLOCK_D], its pairs of columns turned; in the format of x."""
    within = start + tl.arange(0, a.BLOCK_D)
    weights = tl.load(weight + first + within, mask=within < a.WIDTH, other=0.0)
    normal = x.to(tl.float32) * scale[:, None] * weights[None, :]
    even, odd = tl.split(tl.reshape(normal, (BLOCK, a.BLOCK_D // 2, 2)))
    pair = start // 2 + tl.arange(0, a.BLOCK_D // 2)
    mask = (rows < TOKENS)[:, None] & (pair < a.WIDTH // 2)[None, :]
    offsets = rows[:, None] * (a.WIDTH // 2) + pair[None, :]
    cosine = tl.load(a.cos + offsets, mask=mask, other=0.0)
    sine = tl.load(a.sin + offsets, mask=mask, other=0.0)
    turned = tl.join(even * cosine - odd * sine, even * sine + odd * cosine)
    return tl.reshape(turned, (BLOCK, a.BLOCK_D)).to(x.dtype)


@triton.jit
def prepared_rows(
    a, x, scale, rows, first, start, weight, TOKENS: tl.constexpr, BLOCK: tl.constexpr, MASK_ROWS: tl.constexpr
):
    """Columns from `start` on of a head of q or k, as stored or normalised by `scale` and turned. [BLOCK, BLOCK_D]."""
    block = load_rows(x, rows, first, start, TOKENS, a.ROW_STRIDE, a.WIDTH, a.BLOCK_D, MASK_ROWS)
    if a.ROPE:
        block = _rotated(a, block, scale, rows, first, start, weight, TOKENS, BLOCK)
    return block
