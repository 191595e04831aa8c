# SPDX-License-Identifier: Apache-2.0
"""Norms of rows: `layer_norm` and `rms_norm` of engine-format.md, section 4, after an addition, before 8 bits.

y = act(norm(x + addend) * weight + bias), read once, in f32. A program holds whole rows in registers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops import reference as float64
from lightwam.kernels.ops.device import activate, inverse_root
from lightwam.kernels.ops.quantize_rows import ROW_WIDTH_LIMIT, rounded_rows, row_tactics, store_rounded
from lightwam.kernels.task import EIGHT_BITS, Argument, DType, Tactic, Task, given

Kind = Literal["layer", "rms"]
Addend = Literal["full", "row"]


@triton.jit
def kernel(
    x,
    addend,
    weight,
    bias,
    y,
    scale,
    zero,
    KIND: tl.constexpr,
    EPS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ONE_ADDEND: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    batch = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK)
    inside_rows = row < ROWS
    inside_columns = (column < WIDTH)[None, :]
    inside = inside_rows[:, None] & inside_columns
    y_row = batch * ROWS + row
    value = tl.load(x + y_row[:, None] * WIDTH + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if addend is not None:
        addend_row = row * 0 if ONE_ADDEND else y_row
        value += tl.load(addend + addend_row[:, None] * WIDTH + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if KIND == "layer":
        mean = tl.sum(value, axis=1) / WIDTH
        value = tl.where(inside_columns, value - mean[:, None], 0.0)
    variance = tl.sum(value * value, axis=1) / WIDTH
    value = value * inverse_root(variance + EPS)[:, None]
    if weight is not None:
        value = value * tl.load(weight + batch * WIDTH + column, mask=column < WIDTH, other=0.0)[None, :]
    if bias is not None:
        value = value + tl.load(bias + batch * WIDTH + column, mask=column < WIDTH, other=0.0)[None, :]
    value = activate(value, ACTIVATION)
    if scale is not None:
        store_rounded(y, scale, zero, value, y_row, column, inside_rows, inside, WIDTH)
    else:
        tl.store(y + y_row[:, None] * WIDTH + column[None, :], value.to(y.dtype.element_ty), mask=inside)


def task(
    rows: int,
    width: int,
    *,
    kind: Kind,
    x: DType,
    y: DType,
    eps: float,
    weight: bool = False,
    bias: bool = False,
    activation: str = "none",
    batch: int = 1,
    addend: Addend | None = None,
    addend_dtype: DType = "f32",
) -> Task:
    """Arguments x, [addend], [weight], [bias], y, [scale, zero]; rows are counted per batch.

    x, y [batch, rows, width]; addend: "full", as x, or "row" [1, width]; weight, bias f32 [batch, width].
    y: a float, or i8 with scale f32 and zero i32 [batch, rows], or f8 with scale, as `quantize_rows` makes them of the
    f32 result.
    """
    if width > ROW_WIDTH_LIMIT:
        raise ValueError(f"row_norm: rows of {width} elements; up to {ROW_WIDTH_LIMIT} fit into a program's registers")
    shape = (batch, rows, width)
    arguments = given(
        Argument("x", "r", x, shape),
        Argument("addend", "r", addend_dtype, (1, width) if addend == "row" else shape) if addend else None,
        Argument("weight", "r", "f32", (batch, width)) if weight else None,
        Argument("bias", "r", "f32", (batch, width)) if bias else None,
        Argument("y", "w", y, shape),
        Argument("scale", "w", "f32", (batch, rows)) if y in EIGHT_BITS else None,
        Argument("zero", "w", "i32", (batch, rows)) if y == "i8" else None,
    )
    constants = {
        "KIND": kind,
        "EPS": eps,
        "ACTIVATION": activation,
        "ROWS": rows,
        "WIDTH": width,
        "ONE_ADDEND": addend == "row",
    }
    return Task("row_norm", constants, arguments, flops=0)


def tactics(task: Task, target: str) -> list[Tactic]:
    return row_tactics(task.integer("ROWS"), task.integer("WIDTH"), target)


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    blocks = triton.cdiv(task.integer("ROWS"), tactic.integer("BLOCK_ROWS"))
    return (blocks, task.shape("y")[0], 1)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    constants = task.constants
    x = arguments["x"] + arguments.get("addend", 0.0)
    eps = task.real("EPS")
    normed = float64.layer_norm(x, eps)
    if constants["KIND"] == "rms":
        normed = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    weight, bias = arguments.get("weight", np.ones((1, 1))), arguments.get("bias", np.zeros((1, 1)))
    y = float64.activate(normed * weight[:, None] + bias[:, None], str(constants["ACTIVATION"]))
    names = task.argument_names
    return rounded_rows(y, integers="zero" in names) if "scale" in names else {"y": y}


CASES = [
    task(5, 192, kind="layer", x="f32", y="f32", eps=1e-6),
    task(37, 100, kind="layer", x="f32", y="bf16", eps=1e-6, weight=True, bias=True),
    task(130, 96, kind="rms", x="bf16", y="bf16", eps=1e-24, weight=True, activation="silu"),
    task(300, 8, kind="rms", x="f32", y="f32", eps=1e-24, weight=True, activation="silu"),
    task(1, 1536, kind="rms", x="f16", y="f16", eps=1e-6, weight=True),
    task(1, 5000, kind="layer", x="f32", y="bf16", eps=1e-5),
    task(3, 64, kind="rms", x="bf16", y="bf16", eps=1e-6, weight=True, batch=4),
    task(1, 65, kind="layer", x="f32", y="f32", eps=1e-5, weight=True, bias=True, batch=3),
    task(9, 48, kind="layer", x="f32", y="bf16", eps=1e-5, addend="full"),
    task(9, 48, kind="layer", x="bf16", y="f32", eps=1e-5, addend="row", addend_dtype="bf16", batch=2),
    task(19, 256, kind="layer", x="f32", y="i8", eps=1e-6),
    task(6, 72, kind="layer", x="bf16", y="i8", eps=1e-6, weight=True, bias=True, batch=2),
    task(19, 256, kind="layer", x="f32", y="f8", eps=1e-6),
    task(6, 72, kind="rms", x="bf16", y="f8", eps=1e-6, weight=True, batch=2),
]
