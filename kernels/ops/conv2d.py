# SPDX-License-Identifier: Apache-2.0
"""`conv2d` of engine-format.md, section 4, on maps [h, w, channels]: a matmul whose x is gathered.

Row r of x is what the kernel's window sees at output pixel r: taps * Cin numbers that exist only in registers and
shared memory. A tile's columns are two powers of two side by side (96 = 64 + 32), so none is wasted on padding.
Where one tile holds all channels, it may also write the map that the next layer reads: silu(rms_norm(y) * weight).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array, decode, encode
from lightwam.kernels.ops import reference as float64
from lightwam.kernels.ops.conv2d_tactics import MOST_NORMED
from lightwam.kernels.ops.conv2d_tactics import tactics as tactics
from lightwam.kernels.ops.device import activate, inverse_root, store_statistics
from lightwam.kernels.task import FLOATS, Argument, Constant, DType, Tactic, Task, given


@triton.jit
def _product(
    x_tile,
    weight,
    sums,
    channel,
    k,
    COUT: tl.constexpr,
    DEPTH: tl.constexpr,
    RAGGED_CHANNELS: tl.constexpr,
    RAGGED_DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """sums [M, N] + x_tile [M, K] times the columns k of the weight's rows `channel` [N]."""
    pointers = weight + channel[:, None] * DEPTH + k[None, :]
    mask = None
    if RAGGED_CHANNELS and RAGGED_DEPTH:
        mask = (channel < COUT)[:, None] & (k < DEPTH)[None, :]
    elif RAGGED_CHANNELS:
        mask = (channel < COUT)[:, None] & (k >= 0)[None, :]
    elif RAGGED_DEPTH:
        mask = (channel >= 0)[:, None] & (k < DEPTH)[None, :]
    if mask is not None:
        weights = tl.load(pointers, mask=mask, other=0.0)
    else:
        weights = tl.load(pointers)
    return tl.dot(x_tile, tl.trans(weights.to(x_tile.dtype)), sums, input_precision=PRECISION)


@triton.jit
def _finish(
    sums, bias, residual, y, row, channel, inside, COUT: tl.constexpr, ACTIVATION: tl.constexpr, RAGGED: tl.constexpr
):
    """y's values, f32 [M, N], written if y is an argument. inside [M, N]: which of them there are."""
    place = row[:, None] * COUT + channel[None, :]
    if bias is not None:
        if RAGGED:
            sums += tl.load(bias + channel, mask=channel < COUT, other=0.0)[None, :]
        else:
            sums += tl.load(bias + channel)[None, :]
    value = activate(sums, ACTIVATION)
    if residual is not None:
        value += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    if y is not None:
        tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)
    return value


@triton.jit
def _store_normed(value, inverse, norm_weight, z, row, channel, inside, COUT: tl.constexpr):
    weight = tl.load(norm_weight + channel, mask=channel < COUT, other=0.0)
    normed = activate(value * inverse[:, None] * weight[None, :], "silu")
    tl.store(z + row[:, None] * COUT + channel[None, :], normed.to(z.dtype.element_ty), mask=inside)


@triton.jit
def kernel(
    x,
    weight,
    bias,
    residual,
    norm_weight,
    y,
    z,
    statistics,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    KERNEL_HEIGHT: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    ACTIVATION: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_N_MORE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    PIXELS: tl.constexpr = OUT_HEIGHT * OUT_WIDTH
    DEPTH: tl.constexpr = KERNEL_HEIGHT * KERNEL_WIDTH * CIN
    BLOCK_CHANNELS: tl.constexpr = BLOCK_N + BLOCK_N_MORE
    RAGGED: tl.constexpr = COUT % BLOCK_CHANNELS != 0
    RAGGED_DEPTH: tl.constexpr = DEPTH % BLOCK_K != 0
    WHOLE_TAPS: tl.constexpr = CIN % BLOCK_K == 0  # a step lies in one tap: its place is a scalar
    BLOCKS: tl.constexpr = (COUT + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    row = tl.program_id(0) // BLOCKS * BLOCK_M + tl.arange(0, BLOCK_M)
    start = tl.program_id(0) % BLOCKS * BLOCK_CHANNELS
    channel = start + tl.arange(0, BLOCK_N)
    inside_rows = row < PIXELS
    # The window's first pixel; rows past the map get one that lies outside of it for every tap.
    top = tl.where(inside_rows, row // OUT_WIDTH * STRIDE - TOP, -KERNEL_HEIGHT)
    left = row % OUT_WIDTH * STRIDE - LEFT
    first = (top * WIDTH + left) * CIN
    inner = tl.arange(0, BLOCK_K)
    sums = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    if BLOCK_N_MORE > 0:
        channel_more = start + BLOCK_N + tl.arange(0, BLOCK_N_MORE)
        sums_more = tl.zeros([BLOCK_M, BLOCK_N_MORE], dtype=tl.float32)
    for step in range((DEPTH + BLOCK_K - 1) // BLOCK_K):
        k = step * BLOCK_K + inner
        if WHOLE_TAPS:
            tap = step // (CIN // BLOCK_K)
            down = tap // KERNEL_WIDTH
            right = tap % KERNEL_WIDTH
            seen_rows = (top + down >= 0) & (top + down < HEIGHT) & (left + right >= 0) & (left + right < WIDTH)
            offset = (down * WIDTH + right) * CIN + step % (CIN // BLOCK_K) * BLOCK_K
            seen = seen_rows[:, None] & (inner >= 0)[None, :]
            x_tile = tl.load(x + (first + offset)[:, None] + inner[None, :], mask=seen, other=0.0)
        else:
            taps = k // CIN
            down = taps // KERNEL_WIDTH
            right = taps % KERNEL_WIDTH
            pixel_row = top[:, None] + down[None, :]
            pixel_column = left[:, None] + right[None, :]
            seen = (pixel_row >= 0) & (pixel_row < HEIGHT) & (pixel_column >= 0) & (pixel_column < WIDTH)
            if RAGGED_DEPTH:
                seen = seen & (k < DEPTH)[None, :]
            offset = (down * WIDTH + right) * CIN + k % CIN
            x_tile = tl.load(x + first[:, None] + offset[None, :], mask=seen, other=0.0)
        sums = _product(x_tile, weight, sums, channel, k, COUT, DEPTH, RAGGED, RAGGED_DEPTH, PRECISION)
        if BLOCK_N_MORE > 0:
            sums_more = _product(
                x_tile, weight, sums_more, channel_more, k, COUT, DEPTH, RAGGED, RAGGED_DEPTH, PRECISION
            )
    inside = inside_rows[:, None] & (channel < COUT)[None, :]
    value = _finish(sums, bias, residual, y, row, channel, inside, COUT, ACTIVATION, RAGGED)
    if statistics is not None:
        stored = value.to(y.dtype.element_ty).to(tl.float32)
        store_statistics(statistics, stored, row, start, inside_rows, COUT, "moments", True)
    if BLOCK_N_MORE > 0:
        inside_more = inside_rows[:, None] & (channel_more < COUT)[None, :]
        value_more = _finish(sums_more, bias, residual, y, row, channel_more, inside_more, COUT, ACTIVATION, RAGGED)
        if statistics is not None:
            stored_more = value_more.to(y.dtype.element_ty).to(tl.float32)
            store_statistics(statistics, stored_more, row, start + BLOCK_N, inside_rows, COUT, "moments", True)
    if z is not None:
        # Channels past the last have sums, bias and residual 0.
        squares = tl.sum(value * value, axis=1)
        if BLOCK_N_MORE > 0:
            squares += tl.sum(value_more * value_more, axis=1)
        inverse = inverse_root(squares / COUT + EPS)
        _store_normed(value, inverse, norm_weight, z, row, channel, inside, COUT)
        if BLOCK_N_MORE > 0:
            _store_normed(value_more, inverse, norm_weight, z, row, channel_more, inside_more, COUT)


def task(
    height: int,
    width: int,
    cin: int,
    cout: int,
    *,
    kernel: tuple[int, int] = (3, 3),
    stride: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    x: DType,
    weight: DType,
    y: DType | None,
    bias: bool = False,
    activation: str = "none",
    residual: DType | None = None,
    norm: Literal["rms"] | None = None,
    z: DType | None = None,
    eps: float = 0.0,
    statistics: Literal["moments"] | None = None,
) -> Task:
    """y = act(conv(x) + bias) + residual, and z = silu(rms_norm(y) * norm_weight) if `norm`.

    Arguments x [height, width, cin], weight [cout, kh, kw, cin], [bias f32 [cout]], [residual [h', w', cout]],
    [norm_weight f32 [cout]], [y [h', w', cout]], [z likewise], [statistics f32 [h' * w', ceil(cout / 64), 2]: row
    `moments` of y]. padding: top, left, bottom, right. y=None: only z is written. `norm` needs cout at most
    `MOST_NORMED`; x f32 takes a weight of any format (widened), others their own.
    """
    kernel_height, kernel_width = kernel
    top, left, bottom, right = padding
    out_height = (height + top + bottom - kernel_height) // stride + 1
    out_width = (width + left + right - kernel_width) // stride + 1
    if out_height < 1 or out_width < 1 or top >= kernel_height or left >= kernel_width:
        raise ValueError(f"conv2d: map {height} x {width} with kernel {kernel}, padding {padding}: nothing to compute")
    if x not in FLOATS or weight not in FLOATS or (x != "f32" and weight != x):
        raise ValueError(f"conv2d: x {x} with weight {weight}; x is f32, or both are f16 or bf16")
    if (norm is None) != (z is None) or (y is None and (norm is None or statistics is not None)):
        raise ValueError(f"conv2d: norm {norm} with y {y}, z {z}; a norm goes with z, and y is written without one")
    if norm is not None and cout > MOST_NORMED:
        raise ValueError(f"conv2d: a norm over {cout} channels; one tile holds {MOST_NORMED}")
    depth, out_shape = kernel_height * kernel_width * cin, (out_height, out_width, cout)
    if max(height * width * cin, out_height * out_width * cout, cout * depth) >= 2**31:
        raise ValueError(f"conv2d: map {height} x {width} x {cin} to {cout} channels: offsets are i32")
    statistics_shape = (out_height * out_width, float64.partials(cout), 2)
    arguments = given(
        Argument("x", "r", x, (height, width, cin)),
        Argument("weight", "r", weight, (cout, kernel_height, kernel_width, cin)),
        Argument("bias", "r", "f32", (cout,)) if bias else None,
        Argument("residual", "r", residual, out_shape) if residual else None,
        Argument("norm_weight", "r", "f32", (cout,)) if norm else None,
        Argument("y", "w", y, out_shape) if y else None,
        Argument("z", "w", z, out_shape) if z else None,
        Argument("statistics", "w", "f32", statistics_shape) if statistics else None,
    )
    constants: dict[str, Constant] = {
        "HEIGHT": height,
        "WIDTH": width,
        "CIN": cin,
        "COUT": cout,
        "KERNEL_HEIGHT": kernel_height,
        "KERNEL_WIDTH": kernel_width,
        "STRIDE": stride,
        "TOP": top,
        "LEFT": left,
        "OUT_HEIGHT": out_height,
        "OUT_WIDTH": out_width,
        "ACTIVATION": activation,
        "EPS": eps,
    }
    flops = 2 * out_height * out_width * cout * depth
    return Task("conv2d", constants, arguments, flops, x)  # type: ignore[arg-type]


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    pixels = task.integer("OUT_HEIGHT") * task.integer("OUT_WIDTH")
    channels = tactic.integer("BLOCK_N") + tactic.integer("BLOCK_N_MORE")
    return (triton.cdiv(pixels, tactic.integer("BLOCK_M")) * triton.cdiv(task.integer("COUT"), channels), 1, 1)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    height, width, stride, top, left, out_height, out_width = (
        task.integer(name) for name in ("HEIGHT", "WIDTH", "STRIDE", "TOP", "LEFT", "OUT_HEIGHT", "OUT_WIDTH")
    )
    x, weight = arguments["x"], arguments["weight"]
    _, kernel_height, kernel_width, cin = weight.shape
    rows, columns = (out_height - 1) * stride + kernel_height, (out_width - 1) * stride + kernel_width
    padded = np.zeros((max(rows, top + height), max(columns, left + width), cin))
    padded[top : top + height, left : left + width] = x
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel_height, kernel_width), axis=(0, 1))
    windows = windows[: rows - kernel_height + 1 : stride, : columns - kernel_width + 1 : stride]
    y = np.einsum("abcij,oijc->abo", windows, weight, optimize=True)
    y = float64.activate(y + arguments.get("bias", 0.0), str(task.constants["ACTIVATION"]))
    y = y + arguments.get("residual", 0.0)
    names = task.argument_names
    results = {"y": y} if "y" in names else {}
    if "z" in names:
        normed = y / np.sqrt(np.mean(y * y, axis=-1, keepdims=True) + task.real("EPS")) * arguments["norm_weight"]
        results["z"] = float64.activate(normed, "silu")
    if "statistics" in names:
        stored = decode(encode(y, task.dtype("y")), task.dtype("y")).reshape(-1, y.shape[-1])
        results["statistics"] = float64.row_statistics(stored, "moments")
    return results


SAME = (1, 1, 1, 1)
CASES = [
    task(9, 7, 3, 16, padding=SAME, x="f32", weight="f32", y="f32", bias=True),
    task(8, 10, 8, 8, padding=SAME, x="f32", weight="bf16", y="f32", bias=True, residual="f32"),
    task(8, 6, 16, 24, padding=SAME, x="bf16", weight="bf16", y="bf16", bias=True, norm="rms", z="bf16", eps=1e-24),
    task(6, 11, 32, 96, padding=SAME, x="bf16", weight="bf16", y=None, bias=True, norm="rms", z="bf16", eps=1e-24),
    task(5, 6, 96, 96, padding=SAME, x="f16", weight="f16", y="f16", bias=True, residual="f16", norm="rms", z="f16"),
    task(9, 12, 64, 192, stride=2, padding=(0, 0, 1, 1), x="bf16", weight="bf16", y="f32", activation="gelu_tanh"),
    task(8, 9, 24, 40, kernel=(1, 1), x="f32", weight="f32", y="bf16", activation="silu"),
    task(6, 8, 16, 160, kernel=(2, 2), stride=2, x="bf16", weight="bf16", y="f32", bias=True, statistics="moments"),
    task(7, 5, 5, 7, kernel=(3, 2), stride=2, padding=(2, 1, 0, 3), x="f32", weight="f32", y="f32", residual="bf16"),
    task(4, 5, 32, 320, padding=SAME, x="bf16", weight="bf16", y="bf16", residual="f32"),
]
