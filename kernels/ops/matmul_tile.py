# SPDX-License-Identifier: Apache-2.0
"""One tile of a matrix product, as `matmul` computes it: sums over k, then from the sums to y and its statistics."""

from __future__ import annotations

import triton
import triton.language as tl

from lightwam.kernels.ops.device import (
    activate,
    combine_moments,
    combine_range,
    e4m3_scale,
    eight_bit_scale,
    round_to_eight_bits,
    store_statistics,
)


@triton.jit
def _free_layout(x):
    """x [B] as it is, in whatever layout its readers have.

    A reduction's result brings the layout of what was reduced into a loop that reads it: x would pass through shared
    memory a byte at a time. What was gathered takes on the layout in which x is loaded, 16 bytes at a time.
    """
    return tl.gather(x, tl.arange(0, x.shape[0]), 0)


@triton.jit
def _finish(
    total,
    scale,
    zero,
    weight_scale,
    weight_sum,
    bias,
    residual,
    y,
    statistics,
    row,
    column_start,
    group,
    ROWS: tl.constexpr,
    N: tl.constexpr,
    GROUPS: tl.constexpr,
    RESIDUAL_ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    STATISTICS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    EVEN_N: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """From sums of products [BLOCK_M, BLOCK_N] to y and its statistics. scale [BLOCK_M]: of x in 8 bits; zero: of i8.

    EVEN_N: no column of it lies past the end.
    """
    column = column_start + tl.arange(0, BLOCK_N)
    column_read = column if EVEN_N else tl.minimum(column, N - 1)
    if total.dtype == tl.int32:
        # sum (x - zero) w = sum x w - zero sum w; both fit into i32 (engine-format 4.1), and sum w is exact in f32.
        sums = tl.load(weight_sum + group * N + column_read).to(tl.int32)
        total = total - zero.to(tl.int32)[:, None] * sums[None, :]
        value = total.to(tl.float32) * (scale[:, None] * tl.load(weight_scale + group * N + column_read)[None, :])
    elif weight_scale is not None:
        value = total * (scale[:, None] * tl.load(weight_scale + group * N + column_read)[None, :])
    else:
        value = total
    if bias is not None:
        value += tl.load(bias + group * N + column_read)[None, :]
    value = activate(value, ACTIVATION)
    inside = tl.full([BLOCK_M, BLOCK_N], True, tl.int1)
    if RAGGED:
        inside = inside & (row < ROWS)[:, None]
    if not EVEN_N:
        inside = inside & (column < N)[None, :]
    offset = (row * (GROUPS * N))[:, None] + (group * N + column)[None, :]
    if residual is not None:
        if RESIDUAL_ROWS == 1:
            value += tl.load(residual + group * N + column_read).to(tl.float32)[None, :]
        else:
            value += tl.load(residual + offset, mask=inside, other=0.0).to(tl.float32)
    stored = value.to(y.dtype.element_ty)
    tl.store(y + offset, stored, mask=inside)
    if STATISTICS != "none":
        store_statistics(statistics, stored.to(tl.float32), row, column_start, row < ROWS, N, STATISTICS, RAGGED)


@triton.jit
def product_tile(
    x,
    x_scale,
    x_zero,
    x_statistics,
    weight,
    weight_scale,
    weight_sum,
    bias,
    residual,
    y,
    statistics,
    row_start,
    column_start,
    group,
    ROWS: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    RESIDUAL_ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    X_MODE: tl.constexpr,
    X_PARTIALS: tl.constexpr,
    X_PARTIAL_WIDTH: tl.constexpr,
    EPS: tl.constexpr,
    STATISTICS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STEP_SUMS: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """Rows row_start .. and columns column_start .. of group `group`; RAGGED: some of the rows lie past the end."""
    INTEGER: tl.constexpr = weight.dtype.element_ty == tl.int8
    FLOAT8: tl.constexpr = weight.dtype.element_ty == tl.float8e4nv
    EVEN_N: tl.constexpr = N % BLOCK_N == 0
    EVEN_K: tl.constexpr = K % BLOCK_K == 0
    WIDE: tl.constexpr = x.dtype.element_ty == tl.float32 and (
        X_MODE == "plain" or weight.dtype.element_ty == tl.float32
    )
    # Three products of 10 bits each: f32 but for its last bits, on the matrix units.
    PRECISION: tl.constexpr = "tf32x3" if WIDE else None
    row = row_start + tl.arange(0, BLOCK_M)
    column = column_start + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    # Rows and columns past the end read the last one: no mask on what is loaded, and nothing of it is stored.
    row_read = tl.minimum(row, ROWS - 1) if RAGGED else row
    column_read = column if EVEN_N else tl.minimum(column, N - 1)
    if X_MODE == "layer_norm":
        mean, variance = combine_moments(x_statistics, row_read, K, X_PARTIALS, X_PARTIAL_WIDTH)
        mean = _free_layout(mean)
        reciprocal = _free_layout(tl.rsqrt(variance + EPS))
    elif X_MODE == "quantize":
        low, high = combine_range(x_statistics, row_read, X_PARTIALS)
        if INTEGER:
            scale, inverse, zero = eight_bit_scale(low, high)
            zero = _free_layout(zero)
        else:
            scale, inverse = e4m3_scale(low, high)
        inverse = _free_layout(inverse)
    elif X_MODE == "quantized":
        scale = tl.load(x_scale + row_read * GROUPS + group)
        if INTEGER:
            zero = tl.load(x_zero + row_read * GROUPS + group)

    x_pointers = x + ((row_read * GROUPS + group) * K)[:, None] + k[None, :]
    weight_pointers = weight + ((group * N + column_read) * K)[:, None] + k[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.int32 if INTEGER else tl.float32)
    for start in range(0, K, BLOCK_K):
        if EVEN_K:
            x_tile = tl.load(x_pointers)
            weight_tile = tl.load(weight_pointers)
        else:
            inside = (start + k < K)[None, :]
            x_tile = tl.load(x_pointers, mask=inside, other=0.0)
            weight_tile = tl.load(weight_pointers, mask=inside, other=0.0)
        if X_MODE == "layer_norm":
            x_tile = ((x_tile.to(tl.float32) - mean[:, None]) * reciprocal[:, None]).to(weight.dtype.element_ty)
        elif X_MODE == "quantize":
            if INTEGER:
                x_tile = round_to_eight_bits(x_tile.to(tl.float32), inverse[:, None], zero[:, None])
            else:
                x_tile = (x_tile.to(tl.float32) * inverse[:, None]).to(tl.float8e4nv)
        elif x.dtype.element_ty != weight.dtype.element_ty:
            weight_tile = weight_tile.to(x.dtype.element_ty)
        if FLOAT8 and STEP_SUMS:
            # The unit's sums of 8-bit floats have some 14 bits: it sums one step, f32 additions all of them.
            total += tl.dot(x_tile, tl.trans(weight_tile), max_num_imprecise_acc=BLOCK_K, out_dtype=tl.float32)
        else:
            total = tl.dot(x_tile, tl.trans(weight_tile), total, input_precision=PRECISION, out_dtype=total.dtype)
        x_pointers += BLOCK_K
        weight_pointers += BLOCK_K

    if weight_scale is None:
        scale = 0.0
    if not INTEGER:
        zero = 0
    if BLOCK_N >= 128 and (INTEGER or residual is not None):
        # One half of the columns after the other, so that only half of a residual's tile, or of the sums in f32
        # beside the i32 ones, is in registers at a time.
        left, right = tl.split(tl.permute(tl.reshape(total, [BLOCK_M, 2, BLOCK_N // 2]), [0, 2, 1]))
        _finish(
            left, scale, zero, weight_scale, weight_sum, bias, residual, y, statistics, row, column_start, group,
            ROWS, N, GROUPS, RESIDUAL_ROWS, ACTIVATION, STATISTICS, BLOCK_M, BLOCK_N // 2, EVEN_N, RAGGED,
        )  # fmt: skip
        _finish(
            right, scale, zero, weight_scale, weight_sum, bias, residual, y, statistics, row,
            column_start + BLOCK_N // 2, group,
            ROWS, N, GROUPS, RESIDUAL_ROWS, ACTIVATION, STATISTICS, BLOCK_M, BLOCK_N // 2, EVEN_N, RAGGED,
        )  # fmt: skip
    else:
        _finish(
            total, scale, zero, weight_scale, weight_sum, bias, residual, y, statistics, row, column_start, group,
            ROWS, N, GROUPS, RESIDUAL_ROWS, ACTIVATION, STATISTICS, BLOCK_M, BLOCK_N, EVEN_N, RAGGED,
        )  # fmt: skip
