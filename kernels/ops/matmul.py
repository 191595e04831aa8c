# SPDX-License-Identifier: Apache-2.0
"""Matmuls of many rows, y = act(f(x) Wᵀ + bias) + residual, and row statistics of y.

`linear` and `grouped_linear` of docs/reference/engine-format.md, section 4.
A program computes a tile of y. Programs of one block of columns follow each other, so a weight comes from device memory
once and then from the cache. Rows past the last whole tile get a tile of their own height: 392 rows are 3 * 128 + 8,
and a fourth tile of 128 would waste a quarter of the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array, decode, encode
from lightwam.kernels.ops import reference as float64
from lightwam.kernels.ops.device import arguments_type
from lightwam.kernels.ops.matmul_tactics import tactics as tactics
from lightwam.kernels.ops.matmul_tile import matmul_program
from lightwam.kernels.ops.quantize_rows import rounded_rows
from lightwam.kernels.ops.reference import ACTIVATIONS, STATISTICS, STATISTICS_WIDTH, Activation, Statistics
from lightwam.kernels.task import EIGHT_BITS, FLOATS, Argument, DType, ProductType, Tactic, Task, given

XMode = Literal["plain", "quantized", "layer_norm", "quantize"]


@triton.jit
def kernel(
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
    ROWS: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    X_MODE: tl.constexpr,
    X_PARTIALS: tl.constexpr,
    EPS: tl.constexpr,
    STATISTICS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TAIL_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STEP_SUMS: tl.constexpr,
):
    matmul_program(
        _Arguments(
            x, x_scale, x_zero, x_statistics, weight, weight_scale, weight_sum, bias, residual, y, statistics,
            ROWS, N, K, GROUPS, ACTIVATION, X_MODE, X_PARTIALS, EPS, STATISTICS,
            BLOCK_M, TAIL_M, BLOCK_N, BLOCK_K, STEP_SUMS,
        )
    )  # fmt: skip


_Arguments = arguments_type(kernel)


def task(
    rows: int,
    n: int,
    k: int,
    *,
    x: DType,
    weight: DType,
    y: DType,
    bias: bool = False,
    activation: Activation = "none",
    residual: DType | None = None,
    x_mode: XMode = "plain",
    x_partials: int = 0,
    eps: float = 0.0,
    groups: int = 1,
    statistics: Statistics | None = None,
) -> Task:
    """y [rows, n * groups] = act(f(x) Wᵀ + bias) + residual, of x [rows, groups, k] and weight [groups, n, k].

    f is `x_mode`: "plain" (x as it is; f32 with a narrower weight: the weight is widened), "quantized" (x is i8, with
    x_scale f32 and x_zero i32 [rows, groups], or f8, with x_scale), "layer_norm" (no affine, eps; from the `moments`
    x_statistics [rows, x_partials, 2]; rounded to the weight's format) or "quantize"
    (to the weight's i8 or f8 as `quantize_rows`, from the `range` x_statistics). Several groups go with "plain" and
    "quantized" only. An 8-bit weight comes with weight_scale f32 [groups, n], one of i8 also with weight_sum f32
    [groups, n], the sum of every row of it (exact: below 2^24). residual: its format; [rows, n * groups].
    statistics: the kind to write, [rows, ceil(n / 64), 2]. Engine-format 4, `linear` and
    `grouped_linear`. ValueError: a combination that the kernel does not compute.
    """
    product_type = _matmul_type(x, weight, x_mode)
    arguments = given(
        Argument("x", "r", x, (rows, groups, k)),
        Argument("x_scale", "r", "f32", (rows, groups)) if x_mode == "quantized" else None,
        Argument("x_zero", "r", "i32", (rows, groups)) if x == "i8" else None,
        Argument("x_statistics", "r", "f32", (rows, x_partials, 2)) if x_mode in ("layer_norm", "quantize") else None,
        Argument("weight", "r", weight, (groups, n, k)),
        Argument("weight_scale", "r", "f32", (groups, n)) if weight in EIGHT_BITS else None,
        Argument("weight_sum", "r", "f32", (groups, n)) if weight == "i8" else None,
        Argument("bias", "r", "f32", (n * groups,)) if bias else None,
        Argument("residual", "r", residual, (rows, n * groups)) if residual else None,
        Argument("y", "w", y, (rows, n * groups)),
        Argument("statistics", "w", "f32", (rows, float64.partials(n), 2)) if statistics else None,
    )
    constants = {
        "ROWS": rows,
        "N": n,
        "K": k,
        "GROUPS": groups,
        "ACTIVATION": activation,
        "X_MODE": x_mode,
        "X_PARTIALS": x_partials,
        "EPS": eps,
        "STATISTICS": statistics or "none",
    }
    return _check(Task("matmul", constants, arguments, 2 * rows * n * k * groups, product_type))


def _matmul_type(x: DType, weight: DType, x_mode: XMode) -> ProductType:
    """The format of the matmul; ValueError where x, weight and mode don't go together."""
    if x_mode == "plain" and x == weight and x in FLOATS:
        return x  # type: ignore[return-value]
    if x_mode == "plain" and x == "f32" and weight in FLOATS:
        return "f32"
    if weight in EIGHT_BITS and (x_mode, x in FLOATS, x == weight) in (
        ("quantized", False, True),
        ("quantize", True, False),
    ):
        return weight  # type: ignore[return-value]
    if x_mode == "layer_norm" and x in FLOATS and weight in FLOATS:
        return weight  # type: ignore[return-value]
    raise ValueError(f"matmul: x {x}, weight {weight} and x_mode {x_mode!r} do not go together")


def _check(task: Task) -> Task:
    """The task. ValueError of one line for what the kernel can't do."""
    rows, n, k, groups, partials = (task.integer(name) for name in ("ROWS", "N", "K", "GROUPS", "X_PARTIALS"))
    activation, x_mode, statistics = (str(task.constants[name]) for name in ("ACTIVATION", "X_MODE", "STATISTICS"))
    y, residual = task.dtype("y"), task.dtype("residual") if "residual" in task.argument_names else None
    if min(rows, n, k, groups) < 1:
        raise ValueError(f"matmul: rows {rows}, n {n}, k {k}, groups {groups} must be positive")
    if max(rows * k, n * k, rows * n) * groups >= 2**31:
        raise ValueError(
            f"matmul: {rows} x {n} x {k}, groups {groups}: a matrix of 2^31 elements or more; offsets are i32"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"matmul: activation is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}")
    if groups > 1 and (x_mode not in ("plain", "quantized") or statistics != "none"):
        raise ValueError(
            f"matmul: groups {groups} with x_mode {x_mode!r}, statistics {statistics}: only plain, quantized and none"
        )
    if statistics not in ("none", *STATISTICS):
        raise ValueError(f"matmul: statistics are {statistics!r}; they must be one of {', '.join(STATISTICS)}")
    if x_mode in ("layer_norm", "quantize") and partials != float64.partials(k):
        raise ValueError(f"matmul: {partials} partial statistics of {STATISTICS_WIDTH} columns do not cover k = {k}")
    if y not in FLOATS or residual not in (None, *FLOATS):
        raise ValueError(f"matmul: y is {y} and the residual {residual}; they must be f32, f16 or bf16")
    return task


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    """Blocks of columns times blocks of rows, groups, 1."""
    rows, n, groups = (task.integer(name) for name in ("ROWS", "N", "GROUPS"))
    row_blocks = triton.cdiv(rows, tactic.integer("BLOCK_M"))
    return row_blocks * triton.cdiv(n, tactic.integer("BLOCK_N")), groups, 1


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    """y, and its statistics if any, in float64 (arguments decoded; i8 and i32 as integers)."""
    constants = task.constants
    x, weight = arguments["x"].astype("float64"), arguments["weight"].astype("float64")
    rows, k = x.shape[0], x.shape[2]
    statistics = arguments.get("x_statistics")
    scale, zero = arguments.get("x_scale"), arguments.get("x_zero")
    if constants["X_MODE"] == "layer_norm" and statistics is not None:
        mean, variance = float64.moments_of(statistics, k)
        x = (x - mean[:, None, None]) / np.sqrt(variance + task.real("EPS"))[:, None, None]
        dtype = task.dtype("weight")
        x = decode(encode(x, dtype), dtype)
    elif constants["X_MODE"] == "quantize" and statistics is not None:
        limits = statistics[:, :, 0].min(axis=1, keepdims=True), statistics[:, :, 1].max(axis=1, keepdims=True)
        rounded = rounded_rows(x, integers=task.product_type == "i8", limits=limits)
        x, scale, zero = rounded["y"], rounded["scale"], rounded.get("zero")
    y = np.einsum("rgk,gnk->rgn", x, weight, optimize=True)
    if zero is not None:
        y = y - zero[:, :, None] * arguments["weight_sum"]
    if scale is not None:
        y = y * scale[:, :, None] * arguments["weight_scale"]
    y = y.reshape(rows, -1)
    y = float64.activate(y + arguments.get("bias", 0.0), str(constants["ACTIVATION"])) + arguments.get("residual", 0.0)
    if constants["STATISTICS"] == "none":
        return {"y": y}
    dtype = task.dtype("y")
    y = decode(encode(y, dtype), dtype)
    return {"y": y, "statistics": float64.row_statistics(y, str(constants["STATISTICS"]))}


def example(task: Task, generator: np.random.Generator) -> dict[str, Array]:
    """Arguments that fit each other: statistics of x, sums of the weight's rows, positive scales."""
    arguments = {argument.name: argument for argument in task.arguments}
    rows, groups, k = arguments["x"].shape or ()
    inputs: dict[str, Array] = {}
    if "x_statistics" in arguments:
        x = decode(encode(generator.standard_normal((rows, k)) * 1.5 + 0.5, arguments["x"].dtype), arguments["x"].dtype)
        kind = "moments" if task.constants["X_MODE"] == "layer_norm" else "range"
        inputs = {"x": x.reshape(rows, groups, k), "x_statistics": float64.row_statistics(x, kind)}
    if "weight_sum" in arguments:
        inputs["weight"] = generator.integers(-127, 128, arguments["weight"].shape)
        inputs["weight_sum"] = inputs["weight"].sum(axis=2)
    if "weight_scale" in arguments:
        inputs["weight_scale"] = generator.uniform(0.5, 1.5, arguments["weight_scale"].shape)
    if "x_scale" in arguments:
        inputs["x_scale"] = generator.uniform(0.5, 1.5, (rows, groups)) / 127
    if "x_zero" in arguments:
        inputs["x_zero"] = generator.integers(-128, 128, (rows, groups))
    return inputs


def tolerance(task: Task) -> float:
    """What results may differ by, of the largest element: f32 sums; one step of a factor or of y beside a tie."""
    dtypes = {argument.name: argument.dtype for argument in task.arguments}
    rounded_on_load = {"layer_norm": 1e-3, "quantize": 3e-3}.get(str(task.constants["X_MODE"]), 5e-6)
    if task.product_type == "f8":  # steps are coarse, and sums of a step may have 14 bits
        rounded_on_load = 2e-2 if task.constants["X_MODE"] == "quantize" else 1e-3
    return max(rounded_on_load, 5e-6 if "statistics" not in dtypes or dtypes["y"] == "f32" else 2.0**-8)


CASES: list[Task] = [
    task(40, 48, 64, x="f32", weight="f32", y="f32"),
    task(136, 96, 128, x="bf16", weight="bf16", y="bf16", bias=True, activation="gelu_tanh"),
    task(136, 100, 72, x="f16", weight="f16", y="f16", bias=True, activation="gelu", statistics="squares"),
    task(40, 64, 96, x="bf16", weight="bf16", y="f32", bias=True, residual="f32", statistics="moments"),
    task(16, 200, 64, x="f32", weight="bf16", y="bf16", activation="silu", residual="bf16"),
    task(33, 7, 80, x="f32", weight="f32", y="f32", bias=True),
    task(
        136, 72, 200, x="f32", weight="bf16", y="bf16", bias=True,
        x_mode="layer_norm", x_partials=4, eps=1e-6, statistics="range",
    ),
    task(40, 64, 128, x="f32", weight="f32", y="f32", x_mode="layer_norm", x_partials=2, eps=1e-6),
    task(
        136, 128, 192, x="i8", weight="i8", y="bf16", bias=True, activation="gelu_tanh",
        x_mode="quantized", statistics="range",
    ),
    task(40, 64, 96, x="bf16", weight="i8", y="f32", bias=True, residual="f32", x_mode="quantize", x_partials=2),
    task(
        136, 128, 192, x="f8", weight="f8", y="bf16", bias=True, activation="gelu_tanh",
        x_mode="quantized", statistics="range",
    ),
    task(40, 100, 80, x="f8", weight="f8", y="f32", x_mode="quantized", residual="bf16"),
    task(40, 64, 96, x="bf16", weight="f8", y="f32", bias=True, residual="f32", x_mode="quantize", x_partials=2),
    task(8, 384, 32, x="bf16", weight="bf16", y="f32", residual="bf16", statistics="squares"),
    task(24, 56, 32, x="bf16", weight="bf16", y="bf16", groups=3),
    task(9, 16, 128, x="f16", weight="f16", y="f32", groups=2, bias=True, residual="f16"),
    task(24, 72, 96, x="i8", weight="i8", y="bf16", groups=3, x_mode="quantized"),
    task(24, 40, 64, x="f8", weight="f8", y="bf16", groups=2, x_mode="quantized"),
]  # fmt: skip
