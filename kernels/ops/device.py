# SPDX-License-Identifier: Apache-2.0
"""What several kernels do inside: activations, partial row statistics, rounding to 8 bits. Everything in f32.

reference.py has the same in NumPy and float64.
"""

import inspect
from collections import namedtuple
from typing import Any

import triton
import triton.language as tl


def arguments_type(kernel: Any) -> Any:
    """A named tuple of a kernel's parameters, in which it passes all of them to its parts. None is listed twice."""
    return namedtuple("Arguments", inspect.signature(kernel.fn).parameters)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """`activation` of docs/reference/engine-format.md: "none", "silu", "gelu" (erf) or "gelu_tanh"."""
    if ACTIVATION == "silu":
        x = x * sigmoid(x)
    elif ACTIVATION == "gelu":
        x = x * (0.5 + 0.5 * tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        # (1 + tanh u) / 2 = sigmoid(2 u): one exponential, and no cancellation where tanh is near -1.
        x = x * sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * x * x))
    return x


@triton.jit
def inverse_root(x):
    """1 / sqrt(x), and NaN of an infinite x: squares of a finite row (above 1.8e19) that overflowed.

    As 0 it would make a row of zeros, which nobody can tell from a result. One fused multiply-add.
    """
    return x * 0.0 + tl.rsqrt(x)


@triton.jit
def round_even(x):
    """To the nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no bits for a fraction."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def eight_bit_scale(low, high):
    """The row's (scale, 1 / scale, zero) of engine-format 4.1 from its smallest and largest value. `zero` is a f32."""
    low = tl.minimum(low, 0.0)
    high = tl.maximum(high, 0.0)
    scale = (high - low) / 255.0
    scale = tl.where(scale < 1.1754943508222875e-38, 1.0, scale)
    inverse = 1.0 / scale
    zero = tl.maximum(tl.minimum(round_even(-128.0 - low * inverse), 127.0), -128.0)
    return scale, inverse, zero


@triton.jit
def round_to_eight_bits(x, inverse, zero):
    """i8 of engine-format 4.1: round(x * inverse) + zero, clamped to [-128, 127], for |x * inverse| < 2^22.

    As in `round_even` the sum's last bits are the integer; they are taken as they are, for the conversion from f32
    has an eighth of the rate of other instructions.
    """
    bits = (x * inverse + 12582912.0).to(tl.int32, bitcast=True)
    code = bits + (zero.to(tl.int32) - 1262485504)  # the bits of 12582912.0
    return tl.maximum(tl.minimum(code, 127), -128).to(tl.int8)


@triton.jit
def e4m3_scale(low, high):
    """The row's (scale, 1 / scale) of engine-format 4.1 for f8, from its smallest and largest value."""
    scale = tl.maximum(tl.maximum(-low, high), 0.0) / 448.0
    scale = tl.where(scale < 1.1754943508222875e-38, 1.0, scale)
    return scale, 1.0 / scale


@triton.jit
def largest_or_infinity(x):
    """x, and infinity where x is NaN. A maximum over it shows a NaN of the row; hardware maxima pass over NaN."""
    return tl.where(x == x, x, float("inf"))


@triton.jit
def combine_moments(statistics, row, COLUMNS: tl.constexpr, PARTIALS: tl.constexpr):
    """(mean, variance) of rows from their `moments`: statistics f32 [R, PARTIALS, 2], 64 columns each; row [B]."""
    WIDTH: tl.constexpr = 64
    CHUNK: tl.constexpr = min(triton.next_power_of_2(PARTIALS), 32)
    partial = tl.arange(0, CHUNK)
    pointers = statistics + (row * (2 * PARTIALS))[:, None] + 2 * partial[None, :]
    total = tl.zeros([row.shape[0]], dtype=tl.float32)
    for start in range(0, PARTIALS, CHUNK):
        inside = (start + partial < PARTIALS)[None, :]
        count = tl.minimum(COLUMNS - (start + partial) * WIDTH, WIDTH).to(tl.float32)[None, :]
        total += tl.sum(tl.load(pointers + 2 * start, mask=inside, other=0.0) * count, axis=1)
    mean = total / COLUMNS
    deviations = tl.zeros([row.shape[0]], dtype=tl.float32)
    for start in range(0, PARTIALS, CHUNK):
        inside = (start + partial < PARTIALS)[None, :]
        count = tl.minimum(COLUMNS - (start + partial) * WIDTH, WIDTH).to(tl.float32)[None, :]
        offset = tl.load(pointers + 2 * start, mask=inside, other=0.0) - mean[:, None]
        within = tl.load(pointers + (2 * start + 1), mask=inside, other=0.0)
        deviations += tl.sum(tl.where(inside, within + count * offset * offset, 0.0), axis=1)
    return mean, deviations / COLUMNS


@triton.jit
def combine_squares(statistics, row, row_stride, PARTIALS: tl.constexpr):
    """Sum of squares of rows from their `squares`: pairs of row r start at statistics + r * row_stride; row [B]."""
    CHUNK: tl.constexpr = min(triton.next_power_of_2(PARTIALS), 32)
    partial = tl.arange(0, CHUNK)
    pointers = statistics + (row * row_stride)[:, None] + 2 * partial[None, :]
    total = tl.zeros([row.shape[0]], dtype=tl.float32)
    for start in range(0, PARTIALS, CHUNK):
        inside = (start + partial < PARTIALS)[None, :]
        total += tl.sum(tl.load(pointers + 2 * start, mask=inside, other=0.0), axis=1)
    return total


@triton.jit
def combine_range(statistics, row, PARTIALS: tl.constexpr):
    """(smallest or 0, largest or 0) of rows from their `range`: statistics f32 [R, PARTIALS, 2]; row [B]."""
    CHUNK: tl.constexpr = min(triton.next_power_of_2(PARTIALS), 32)
    partial = tl.arange(0, CHUNK)
    pointers = statistics + (row * (2 * PARTIALS))[:, None] + 2 * partial[None, :]
    low = tl.zeros([row.shape[0]], dtype=tl.float32)
    high = tl.zeros([row.shape[0]], dtype=tl.float32)
    for start in range(0, PARTIALS, CHUNK):
        inside = (start + partial < PARTIALS)[None, :]
        low = tl.minimum(low, tl.min(tl.load(pointers + 2 * start, mask=inside, other=0.0), axis=1))
        largest = tl.load(pointers + (2 * start + 1), mask=inside, other=0.0)
        high = tl.maximum(high, tl.max(largest_or_infinity(largest), axis=1))
    return low, high


@triton.jit
def store_statistics(
    statistics,
    value,
    row,
    column,
    inside_rows,
    COLUMNS: tl.constexpr,
    KIND: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """Writes the partial statistics of a tile: value f32 [B, W], W a multiple of 64, as it was stored.

    row i32 [B]; column: the tile's first, a multiple of 64; inside_rows bool [B]: rows to write, read only if RAGGED;
    COLUMNS: of the whole matrix. KIND: "moments", "squares" or "range".
    """
    WIDTH: tl.constexpr = 64
    PARTIALS: tl.constexpr = (COLUMNS + WIDTH - 1) // WIDTH
    PARTS: tl.constexpr = value.shape[1] // WIDTH
    EVEN: tl.constexpr = COLUMNS % WIDTH == 0
    parts = tl.reshape(value, [value.shape[0], PARTS, WIDTH])
    partial = column // WIDTH + tl.arange(0, PARTS)
    inside = (partial[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :] < COLUMNS)[None, :, :]
    if KIND == "range":
        smallest = parts if EVEN else tl.where(inside, parts, float("inf"))
        largest = largest_or_infinity(parts)
        largest = largest if EVEN else tl.where(inside, largest, float("-inf"))
        first = tl.min(smallest, axis=2)
        second = tl.max(largest, axis=2)
    elif KIND == "squares":
        squares = parts * parts
        first = tl.sum(squares if EVEN else tl.where(inside, squares, 0.0), axis=2)
        second = tl.zeros_like(first)
    else:
        tl.static_assert(KIND == "moments")
        count = tl.minimum(COLUMNS - partial * WIDTH, WIDTH).to(tl.float32)
        first = tl.sum(parts if EVEN else tl.where(inside, parts, 0.0), axis=2) / count[None, :]
        offset = parts - first[:, :, None]
        second = tl.sum(offset * offset if EVEN else tl.where(inside, offset * offset, 0.0), axis=2)
    pointers = statistics + (row * (2 * PARTIALS))[:, None] + 2 * partial[None, :]
    mask = (partial < PARTIALS)[None, :]
    if RAGGED:
        mask = mask & inside_rows[:, None]
    tl.store(pointers, first, mask=mask)
    tl.store(pointers + 1, second, mask=mask)
