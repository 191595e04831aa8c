# SPDX-License-Identifier: Apache-2.0
"""Matmuls of one or a few rows, y = act(f(x) Wᵀ + bias) + residual, at the rate at which the weights arrive.

`linear` and `grouped_linear` of engine-format.md, section 4, of few rows or few outputs. Many of them (a batch)
are one launch. A program reads a block of weight rows once, 16 bytes a load, and keeps each sum spread over its threads
until the end: no tensor cores, no shared memory, many small programs, so that device memory always has work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops import reference as float64
from lightwam.kernels.ops.device import (
    activate,
    e4m3_scale,
    eight_bit_scale,
    inverse_root,
    largest_or_infinity,
    round_to_eight_bits,
)
from lightwam.kernels.ops.quantize_rows import rounded_rows
from lightwam.kernels.ops.reference import ACTIVATIONS, Activation
from lightwam.kernels.targets import LATENCY, MOST_WARPS, REGISTERS, Target, tuned_target
from lightwam.kernels.task import EIGHT_BITS, ELEMENT_BYTES, FLOATS, Argument, DType, Tactic, Task, distinct, given

XMode = Literal["plain", "quantized", "layer_norm", "quantize", "layer_norm_quantize"]
MOST_ROWS = 4
FEW_OUTPUTS = 16  # with no more of them, any number of rows


@triton.jit
def _moments(x, row_offset, inside_rows, K: tl.constexpr, EPS: tl.constexpr, BLOCK_X: tl.constexpr):
    """(mean, 1 / sqrt(variance + EPS)) [R] of the rows that start at x + row_offset [R]. They come from the cache."""
    column = tl.arange(0, BLOCK_X)
    total = tl.zeros([row_offset.shape[0], BLOCK_X], dtype=tl.float32)
    for start in range(0, K, BLOCK_X):
        inside = inside_rows[:, None] & (start + column < K)[None, :]
        total += tl.load(x + row_offset[:, None] + (start + column)[None, :], mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=1) / K
    squares = tl.zeros([row_offset.shape[0], BLOCK_X], dtype=tl.float32)
    for start in range(0, K, BLOCK_X):
        inside = inside_rows[:, None] & (start + column < K)[None, :]
        value = tl.load(x + row_offset[:, None] + (start + column)[None, :], mask=inside, other=0.0).to(tl.float32)
        squares += tl.where(inside, (value - mean[:, None]) * (value - mean[:, None]), 0.0)
    return mean, inverse_root(tl.sum(squares, axis=1) / K + EPS)


@triton.jit
def _range(x, row_offset, inside_rows, K: tl.constexpr, BLOCK_X: tl.constexpr):
    """(smallest, largest) [R] of the same rows; the largest is infinity where the row has a NaN."""
    column = tl.arange(0, BLOCK_X)
    low = tl.full([row_offset.shape[0], BLOCK_X], float("inf"), tl.float32)
    high = tl.full([row_offset.shape[0], BLOCK_X], float("-inf"), tl.float32)
    for start in range(0, K, BLOCK_X):
        inside = inside_rows[:, None] & (start + column < K)[None, :]
        value = tl.load(x + row_offset[:, None] + (start + column)[None, :], mask=inside, other=0.0).to(tl.float32)
        low = tl.where(inside, tl.minimum(low, value), low)
        high = tl.where(inside, tl.maximum(high, largest_or_infinity(value)), high)
    return tl.min(low, axis=1), tl.max(high, axis=1)


@triton.jit
def kernel(
    x,
    x_scale,
    x_zero,
    weight,
    weight_scale,
    bias,
    residual,
    y,
    N: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    X_MODE: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    INTEGER: tl.constexpr = weight.dtype.element_ty == tl.int8
    NORMALISED: tl.constexpr = X_MODE == "layer_norm" or X_MODE == "layer_norm_quantize"
    QUANTIZED_HERE: tl.constexpr = X_MODE == "quantize" or X_MODE == "layer_norm_quantize"
    batch = tl.program_id(1)
    row = tl.program_id(2) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    # Outputs past the end read the last weight row: no mask on what is loaded, and nothing of it is stored.
    column_read = column if N % BLOCK_N == 0 else tl.minimum(column, N - 1)
    inside_rows = row < ROWS
    row_read = row if ROWS % BLOCK_R == 0 else tl.minimum(row, ROWS - 1)
    x_row = batch * ROWS + row_read
    if NORMALISED:
        mean, reciprocal = _moments(x, x_row * K, inside_rows, K, EPS, BLOCK_X)
    if QUANTIZED_HERE:
        low, high = _range(x, x_row * K, inside_rows, K, BLOCK_X)
        if NORMALISED:
            low = (low - mean) * reciprocal
            high = (high - mean) * reciprocal
        if INTEGER:
            scale, inverse, zero = eight_bit_scale(low, high)
        else:
            scale, inverse = e4m3_scale(low, high)
        if NORMALISED:  # minima and maxima pass over a NaN
            scale = tl.where(reciprocal == reciprocal, scale, float("inf"))
    elif X_MODE == "quantized":
        scale = tl.load(x_scale + x_row)
        if INTEGER:
            zero = tl.load(x_zero + x_row)

    x_pointers = x + (x_row * K)[:, None] + k[None, :]
    weight_pointers = weight + ((batch * N + column_read) * K)[:, None] + k[None, :]
    sums = tl.zeros([BLOCK_R, BLOCK_N, BLOCK_K], dtype=tl.int32 if INTEGER else tl.float32)
    for start in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            value = tl.load(x_pointers)
            weights = tl.load(weight_pointers)
        else:
            value = tl.load(x_pointers, mask=(start + k < K)[None, :], other=0.0)
            weights = tl.load(weight_pointers, mask=(start + k < K)[None, :], other=0.0)
        if NORMALISED:
            value = (value.to(tl.float32) - mean[:, None]) * reciprocal[:, None]
        if QUANTIZED_HERE:
            if INTEGER:
                value = round_to_eight_bits(value.to(tl.float32), inverse[:, None], zero[:, None])
            else:
                value = (value.to(tl.float32) * inverse[:, None]).to(tl.float8e4nv)
        if INTEGER:
            value = value.to(tl.int32) - zero.to(tl.int32)[:, None]
        sums += value.to(sums.dtype)[:, None, :] * weights.to(sums.dtype)[None, :, :]
        x_pointers += BLOCK_K
        weight_pointers += BLOCK_K

    result = tl.sum(sums, axis=2).to(tl.float32)
    if weight_scale is not None:
        result = result * (scale[:, None] * tl.load(weight_scale + batch * N + column_read)[None, :])
    if bias is not None:
        result += tl.load(bias + batch * N + column_read)[None, :]
    result = activate(result, ACTIVATION)
    offset = ((batch * ROWS + row_read) * N)[:, None] + column_read[None, :]
    if residual is not None:
        result += tl.load(residual + offset).to(tl.float32)
    tl.store(y + offset, result.to(y.dtype.element_ty), mask=inside_rows[:, None] & (column < N)[None, :])


def task(
    n: int,
    k: int,
    *,
    x: DType,
    weight: DType,
    y: DType,
    batch: int = 1,
    rows: int = 1,
    bias: bool = False,
    activation: Activation = "none",
    residual: DType | None = None,
    x_mode: XMode = "plain",
    eps: float = 0.0,
) -> Task:
    """y [batch, rows, n] = act(f(x) Wᵀ + bias) + residual of x [batch, rows, k] and weight [batch, n, k].

    f is `x_mode`: "plain", "quantized" (x is i8, with x_scale f32 and x_zero i32, one a row of x, or f8, with x_scale),
    "layer_norm" (no affine, eps), "quantize" (to the weight's i8 or f8 as `quantize_rows`) or "layer_norm_quantize":
    statistics of the rows are computed inside, and nothing is rounded in between. An 8-bit weight comes with
    weight_scale f32 [batch, n]. bias f32 [batch, n]; residual: its format; [batch, rows, n]. rows <= 4, or n <= 16.
    Engine-format 4, `linear` and `grouped_linear` (a group is a batch).
    ValueError for anything else.
    """
    arguments = given(
        Argument("x", "r", x, (batch, rows, k)),
        Argument("x_scale", "r", "f32", (batch, rows)) if x_mode == "quantized" else None,
        Argument("x_zero", "r", "i32", (batch, rows)) if x == "i8" else None,
        Argument("weight", "r", weight, (batch, n, k)),
        Argument("weight_scale", "r", "f32", (batch, n)) if weight in EIGHT_BITS else None,
        Argument("bias", "r", "f32", (batch, n)) if bias else None,
        Argument("residual", "r", residual, (batch, rows, n)) if residual else None,
        Argument("y", "w", y, (batch, rows, n)),
    )
    constants = {
        "N": n,
        "K": k,
        "ROWS": rows,
        "ACTIVATION": activation,
        "X_MODE": x_mode,
        "EPS": eps,
    }
    return _check(Task("matvec", constants, arguments, 2 * batch * rows * n * k))


def _check(task: Task) -> Task:
    """The task. ValueError of one line for what the kernel can't do."""
    n, k, rows = (task.integer(name) for name in ("N", "K", "ROWS"))
    batch, x, weight, y = task.shape("weight")[0], task.dtype("x"), task.dtype("weight"), task.dtype("y")
    residual = task.dtype("residual") if "residual" in task.argument_names else None
    activation, x_mode = str(task.constants["ACTIVATION"]), str(task.constants["X_MODE"])
    if min(n, k, batch, rows) < 1 or batch * max(n * k, rows * k, rows * n) >= 2**31:
        raise ValueError(f"matvec: batch {batch}, rows {rows}, n {n}, k {k}: positive, each matrix below 2^31 elements")
    if rows > MOST_ROWS and n > FEW_OUTPUTS:
        raise ValueError(f"matvec: {rows} rows of {n} outputs; at most {MOST_ROWS} rows or {FEW_OUTPUTS} outputs")
    eight_bit = x_mode in ("quantized", "quantize", "layer_norm_quantize")
    if x_mode not in ("plain", "layer_norm") and not eight_bit:
        raise ValueError(f"matvec: x_mode is {x_mode!r}; plain, quantized, layer_norm, quantize or layer_norm_quantize")
    fitting = weight in EIGHT_BITS if eight_bit else weight in FLOATS
    if not fitting or (x != weight if x_mode == "quantized" else x not in FLOATS):
        raise ValueError(f"matvec: x {x}, weight {weight} and x_mode {x_mode!r} do not go together")
    if y not in FLOATS or residual not in (None, *FLOATS):
        raise ValueError(f"matvec: y is {y} and the residual {residual}; they must be f32, f16 or bf16")
    if activation not in ACTIVATIONS:
        raise ValueError(f"matvec: activation is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}")
    return task


def tactics(task: Task, target: str) -> list[Tactic]:
    """Blocks of 4, 8 or 16 KiB of weights a step, rows of up to 1 KiB of them; the best guess first.

    ValueError for a target that is not in the table.
    """
    if target == "interpreter":
        return [_tactic(task, 1 << 20, 1 << 12, 4)]
    device = tuned_target("matvec", target)
    found = (_tactic(task, size, 1 << 10, warps) for size, warps in ((8 << 10, 4), (4 << 10, 4), (16 << 10, 8)))
    return sorted(distinct(found), key=lambda tactic: _cycles(task, tactic, device))


def _tactic(task: Task, step_bytes: int, row_bytes: int, warps: int) -> Tactic:
    """The tactic that reads about `step_bytes` of weights a step, `row_bytes` of each of their rows."""
    n, k, rows = (task.integer(name) for name in ("N", "K", "ROWS"))
    element = ELEMENT_BYTES[task.dtype("weight")]
    block_r = triton.next_power_of_2(rows) if rows <= MOST_ROWS else 1
    block_k = min(row_bytes // element, triton.next_power_of_2(k))
    divisor = k & -k
    if 64 <= divisor < block_k:
        block_k = divisor
    block_n = max(1, min(step_bytes // (block_k * element * block_r), triton.next_power_of_2(n), 64))
    block_x = max(32, min(2048 // block_r, triton.next_power_of_2(k)))
    constants = {"BLOCK_R": block_r, "BLOCK_N": block_n, "BLOCK_K": block_k, "BLOCK_X": block_x}
    return Tactic(constants, num_warps=warps, num_stages=2)


def _cycles(task: Task, tactic: Tactic, device: Target) -> float:
    """Estimated cycles: whole waves of programs at the rate of device memory, then a last one that may only wait."""
    block_r, block_n, block_k = (tactic.integer(name) for name in ("BLOCK_R", "BLOCK_N", "BLOCK_K"))
    element = ELEMENT_BYTES[task.dtype("weight")]
    threads, steps = 32 * tactic.num_warps, -(-task.integer("K") // block_k)
    step_elements = block_n * block_k
    registers = 30 if task.constants["X_MODE"] == "plain" else 44  # beside the sums and the weights on their way
    registers += math.ceil(step_elements / threads * (block_r + element / 4))
    resident = max(1, min(REGISTERS // (registers * threads), MOST_WARPS // tactic.num_warps))
    programs = math.prod(grid(task, tactic))
    waves, rest = divmod(programs, resident * device.multiprocessors)
    one = step_elements * element * steps / device.memory_rate  # alone on its multiprocessor
    last = max(math.ceil(rest / device.multiprocessors) * one, (steps + 2) * LATENCY) if rest else 0.0
    return waves * resident * one + last


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    """Blocks of outputs, batch, blocks of rows."""
    n, rows = task.integer("N"), task.integer("ROWS")
    batch = task.shape("weight")[0]
    block_n, block_r = tactic.integer("BLOCK_N"), tactic.integer("BLOCK_R")
    return triton.cdiv(n, block_n), batch, triton.cdiv(rows, block_r)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    """y in float64 (arguments decoded; i8 and i32 as integers)."""
    mode = str(task.constants["X_MODE"])
    x, weight = arguments["x"].astype("float64"), arguments["weight"].astype("float64")
    scale, zero = arguments.get("x_scale"), arguments.get("x_zero")
    if mode.startswith("layer_norm"):
        x = float64.layer_norm(x, task.real("EPS"))
    if mode.endswith("quantize"):
        rounded = rounded_rows(x, integers=task.dtype("weight") == "i8")
        x, scale, zero = rounded["y"], rounded["scale"], rounded.get("zero")
    if zero is not None:
        x = x - zero[..., None]
    if scale is not None:
        x = x * scale[..., None]
    y = np.einsum("brk,bnk->brn", x, weight)
    if scale is not None:
        y = y * arguments["weight_scale"][:, None, :]
    bias = arguments["bias"][:, None, :] if "bias" in arguments else 0.0
    y = float64.activate(y + bias, str(task.constants["ACTIVATION"]))
    return {"y": y + arguments.get("residual", 0.0)}


def example(task: Task, generator: np.random.Generator) -> dict[str, Array]:
    """Positive scales, weights of -127 and more; rows of x whose mean is not 0."""
    shapes = {argument.name: argument.shape or () for argument in task.arguments}
    inputs: dict[str, Array] = {}
    if task.constants["X_MODE"] not in ("plain", "quantized"):
        inputs["x"] = generator.standard_normal(shapes["x"]) * 1.5 + 0.5
    if "weight_scale" in shapes:
        if task.dtype("weight") == "i8":
            inputs["weight"] = generator.integers(-127, 128, shapes["weight"])
        inputs["weight_scale"] = generator.uniform(0.5, 1.5, shapes["weight_scale"])
    if "x_scale" in shapes:
        inputs["x_scale"] = generator.uniform(0.5, 1.5, shapes["x_scale"]) / 127
    return inputs


def tolerance(task: Task) -> float:
    """What results may differ by, of the largest element: f32 sums; one step of a value of x that lay beside a tie."""
    if not str(task.constants["X_MODE"]).endswith("quantize"):
        return 5e-6
    return 3e-3 if task.dtype("weight") == "i8" else 2e-2  # a step of e4m3 is up to a fourteenth of the largest


CASES: list[Task] = [
    task(48, 64, x="f32", weight="f32", y="f32"),
    task(100, 8, x="f32", weight="f32", y="bf16", bias=True, activation="gelu_tanh"),
    task(70, 200, x="bf16", weight="bf16", y="bf16", bias=True, activation="gelu", residual="f32"),
    task(64, 192, x="f16", weight="f16", y="f16", rows=3, activation="silu", residual="f16"),
    task(24, 128, x="bf16", weight="bf16", y="bf16", batch=5, bias=True),
    task(24, 72, x="f32", weight="bf16", y="f32", batch=3, rows=2, bias=True, residual="f32"),
    task(7, 320, x="f32", weight="f32", y="f32", rows=9, bias=True),
    task(40, 192, x="f32", weight="bf16", y="bf16", bias=True, x_mode="layer_norm", eps=1e-5),
    task(40, 300, x="bf16", weight="f32", y="f32", rows=3, x_mode="layer_norm", eps=1e-6),
    task(40, 192, x="i8", weight="i8", y="bf16", bias=True, activation="gelu_tanh", x_mode="quantized"),
    task(33, 100, x="i8", weight="i8", y="f32", batch=3, rows=2, x_mode="quantized", residual="f32"),
    task(40, 192, x="bf16", weight="i8", y="f32", bias=True, batch=2, x_mode="quantize"),
    task(40, 192, x="f32", weight="i8", y="bf16", bias=True, x_mode="layer_norm_quantize", eps=1e-6),
    task(40, 192, x="f8", weight="f8", y="bf16", bias=True, activation="gelu_tanh", x_mode="quantized"),
    task(33, 100, x="bf16", weight="f8", y="f32", batch=3, rows=2, x_mode="quantize", residual="f32"),
    task(40, 192, x="f32", weight="f8", y="bf16", bias=True, x_mode="layer_norm_quantize", eps=1e-6),
]
