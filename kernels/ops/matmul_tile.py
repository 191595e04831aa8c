# SPDX-License-Identifier: Apache-2.0
"""One tile of a matmul, as `matmul` computes it: sums over k, then from the sums to y and its statistics."""

from __future__ import annotations

import triton
import triton.language as tl

from lightwam.kernels.ops.device import (
    activate,
    combine_moments,
    combine_range,
    e4m3_scale,
    eight_bit_scale,
    inverse_root,
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
    a, total, scale, zero, row, column_start, group, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EVEN_N: tl.constexpr,
    RAGGED: tl.constexpr,
):  # fmt: skip
    """From sums of products [BLOCK_M, BLOCK_N] to y and its statistics. scale [BLOCK_M]: of x in 8 bits; zero: of i8.

    EVEN_N: no column of it lies past the end.
    """
    column = column_start + tl.arange(0, BLOCK_N)
    column_read = column if EVEN_N else tl.minimum(column, a.N - 1)
    if total.dtype == tl.int32:
        # sum (x - zero) w = sum x w - zero sum w; both fit into i32 (engine-format 4.1), and sum w is exact in f32.
        sums = tl.load(a.weight_sum + group * a.N + column_read).to(tl.int32)
        total = total - zero.to(tl.int32)[:, None] * sums[None, :]
        value = total.to(tl.float32) * (scale[:, None] * tl.load(a.weight_scale + group * a.N + column_read)[None, :])
    elif a.weight_scale is not None:
        value = total * (scale[:, None] * tl.load(a.weight_scale + group * a.N + column_read)[None, :])
    else:
        value = total
    if a.bias is not None:
        value += tl.load(a.bias + group * a.N + column_read)[None, :]
    value = activate(value, a.ACTIVATION)
    inside = tl.full([BLOCK_M, BLOCK_N], True, tl.int1)
    if RAGGED:
        inside = inside & (row < a.ROWS)[:, None]
    if not EVEN_N:
        inside = inside & (column < a.N)[None, :]
    offset = (row * (a.GROUPS * a.N))[:, None] + (group * a.N + column)[None, :]
    if a.residual is not None:
        value += tl.load(a.residual + offset, mask=inside, other=0.0).to(tl.float32)
    stored = value.to(a.y.dtype.element_ty)
    tl.store(a.y + offset, stored, mask=inside)
    if a.STATISTICS != "none":
        value = stored.to(tl.float32)
        store_statistics(a.statistics, value, row, column_start, row < a.ROWS, a.N, a.STATISTICS, RAGGED)


@triton.jit
def _tile(a, row_start, column_start, group, BLOCK_M: tl.constexpr, RAGGED: tl.constexpr):
    """Rows row_start .. and columns column_start .. of group `group`; RAGGED: some of the rows lie past the end."""
    INTEGER: tl.constexpr = a.weight.dtype.element_ty == tl.int8
    FLOAT8: tl.constexpr = a.weight.dtype.element_ty == tl.float8e4nv
    EVEN_N: tl.constexpr = a.N % a.BLOCK_N == 0
    EVEN_K: tl.constexpr = a.K % a.BLOCK_K == 0
    WIDE: tl.constexpr = a.x.dtype.element_ty == tl.float32 and (
        a.X_MODE == "plain" or a.weight.dtype.element_ty == tl.float32
    )
    # Three matmuls of 10 bits each: f32 but for its last bits, on the tensor cores.
    PRECISION: tl.constexpr = "tf32x3" if WIDE else None
    row = row_start + tl.arange(0, BLOCK_M)
    column = column_start + tl.arange(0, a.BLOCK_N)
    k = tl.arange(0, a.BLOCK_K)
    # Rows and columns past the end read the last one: no mask on what is loaded, and nothing of it is stored.
    row_read = tl.minimum(row, a.ROWS - 1) if RAGGED else row
    column_read = column if EVEN_N else tl.minimum(column, a.N - 1)
    if a.X_MODE == "layer_norm":
        mean, variance = combine_moments(a.x_statistics, row_read, a.K, a.X_PARTIALS)
        mean = _free_layout(mean)
        reciprocal = _free_layout(inverse_root(variance + a.EPS))
    elif a.X_MODE == "quantize":
        low, high = combine_range(a.x_statistics, row_read, a.X_PARTIALS)
        if INTEGER:
            scale, inverse, zero = eight_bit_scale(low, high)
            zero = _free_layout(zero)
        else:
            scale, inverse = e4m3_scale(low, high)
        inverse = _free_layout(inverse)
    elif a.X_MODE == "quantized":
        scale = tl.load(a.x_scale + row_read * a.GROUPS + group)
        if INTEGER:
            zero = tl.load(a.x_zero + row_read * a.GROUPS + group)

    x_pointers = a.x + ((row_read * a.GROUPS + group) * a.K)[:, None] + k[None, :]
    weight_pointers = a.weight + ((group * a.N + column_read) * a.K)[:, None] + k[None, :]
    total = tl.zeros([BLOCK_M, a.BLOCK_N], dtype=tl.int32 if INTEGER else tl.float32)
    for start in range(0, a.K, a.BLOCK_K):
        if EVEN_K:
            x_tile = tl.load(x_pointers)
            weight_tile = tl.load(weight_pointers)
        else:
            inside = (start + k < a.K)[None, :]
            x_tile = tl.load(x_pointers, mask=inside, other=0.0)
            weight_tile = tl.load(weight_pointers, mask=inside, other=0.0)
        if a.X_MODE == "layer_norm":
            x_tile = ((x_tile.to(tl.float32) - mean[:, None]) * reciprocal[:, None]).to(a.weight.dtype.element_ty)
        elif a.X_MODE == "quantize":
            if INTEGER:
                x_tile = round_to_eight_bits(x_tile.to(tl.float32), inverse[:, None], zero[:, None])
            else:
                x_tile = (x_tile.to(tl.float32) * inverse[:, None]).to(tl.float8e4nv)
        elif a.x.dtype.element_ty != a.weight.dtype.element_ty:
            weight_tile = weight_tile.to(a.x.dtype.element_ty)
        if FLOAT8 and a.STEP_SUMS:
            # The tensor cores' sums of 8-bit floats have some 14 bits: it sums one step, f32 additions all of them.
            total += tl.dot(x_tile, tl.trans(weight_tile), max_num_imprecise_acc=a.BLOCK_K, out_dtype=tl.float32)
        else:
            total = tl.dot(x_tile, tl.trans(weight_tile), total, input_precision=PRECISION, out_dtype=total.dtype)
        x_pointers += a.BLOCK_K
        weight_pointers += a.BLOCK_K

    if a.weight_scale is None:
        scale = 0.0
    if not INTEGER:
        zero = 0
    HALF: tl.constexpr = a.BLOCK_N // 2
    if a.BLOCK_N >= 128 and (INTEGER or a.residual is not None):
        # One half of the columns after the other, so that only half of a residual's tile, or of the sums in f32
        # beside the i32 ones, is in registers at a time.
        left, right = tl.split(tl.permute(tl.reshape(total, [BLOCK_M, 2, HALF]), [0, 2, 1]))
        _finish(a, left, scale, zero, row, column_start, group, BLOCK_M, HALF, EVEN_N, RAGGED)
        _finish(a, right, scale, zero, row, column_start + HALF, group, BLOCK_M, HALF, EVEN_N, RAGGED)
    else:
        _finish(a, total, scale, zero, row, column_start, group, BLOCK_M, a.BLOCK_N, EVEN_N, RAGGED)


@triton.jit
def matmul_program(a):
    """The tile of one program. a: the arguments of `matmul.kernel`."""
    ROW_BLOCKS: tl.constexpr = (a.ROWS + a.BLOCK_M - 1) // a.BLOCK_M
    row_block = tl.program_id(0) % ROW_BLOCKS
    column_start = tl.program_id(0) // ROW_BLOCKS * a.BLOCK_N
    group = tl.program_id(1)
    row_start = row_block * a.BLOCK_M
    if a.TAIL_M == 0 or a.TAIL_M == a.BLOCK_M:
        _tile(a, row_start, column_start, group, a.BLOCK_M, a.TAIL_M != 0)
    elif row_block < a.ROWS // a.BLOCK_M:
        _tile(a, row_start, column_start, group, a.BLOCK_M, False)
    else:
        _tile(a, row_start, column_start, group, a.TAIL_M, True)
