# SPDX-License-Identifier: Apache-2.0
"""Maps of matrices, element by element: sums and differences, matrices side by side, another format.

`add`, `subtract`, `concat` and `cast` of engine-format.md, section 4. A block of elements of y a program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.task import Argument, DType, Tactic, Task

MOST_SOURCES = 4
Operation = Literal["add", "subtract", "concat"]


@triton.jit
def _source(pointer, row, column, mask, WIDTH: tl.constexpr, BROADCAST: tl.constexpr):
    """Elements [row, column] of a source [rows, WIDTH], or of its one row, in f32."""
    offset = column if BROADCAST else row * WIDTH + column
    return tl.load(pointer + offset, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _columns(pointer, row, column, mask, START: tl.constexpr, WIDTH: tl.constexpr):
    """Elements of a source that fills columns [START, START + WIDTH) of y; 0 in other columns."""
    here = mask & (column >= START) & (column < START + WIDTH)
    return _source(pointer, row, column - START, here, WIDTH, False)


@triton.jit
def kernel(
    x0,
    x1,
    x2,
    x3,
    y,
    OPERATION: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH_0: tl.constexpr,
    WIDTH_1: tl.constexpr,
    WIDTH_2: tl.constexpr,
    WIDTH_3: tl.constexpr,
    BROADCAST_0: tl.constexpr,
    BROADCAST_1: tl.constexpr,
    BLOCK: tl.constexpr,
):
    WIDTH: tl.constexpr = WIDTH_0 + WIDTH_1 + WIDTH_2 + WIDTH_3 if OPERATION == "concat" else WIDTH_0
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = index < ROWS * WIDTH
    row = index // WIDTH
    column = index % WIDTH
    if OPERATION == "concat":
        value = _columns(x0, row, column, mask, 0, WIDTH_0)
        if WIDTH_1 > 0:
            value += _columns(x1, row, column, mask, WIDTH_0, WIDTH_1)
        if WIDTH_2 > 0:
            value += _columns(x2, row, column, mask, WIDTH_0 + WIDTH_1, WIDTH_2)
        if WIDTH_3 > 0:
            value += _columns(x3, row, column, mask, WIDTH_0 + WIDTH_1 + WIDTH_2, WIDTH_3)
    else:
        value = _source(x0, row, column, mask, WIDTH_0, BROADCAST_0)
        other = _source(x1, row, column, mask, WIDTH_1, BROADCAST_1)
        if OPERATION == "add":
            value = value + other
        else:
            value = value - other
    tl.store(y + index, value.to(y.dtype.element_ty), mask=mask)


def task(
    operation: Operation,
    rows: int,
    widths: Sequence[int],
    *,
    x: Sequence[DType],
    y: DType,
    source_rows: Sequence[int] | None = None,
) -> Task:
    """y [rows, width] of one to four sources x0, x1, ... in the formats `x`.

    "add", "subtract": two sources of equal width, each of `rows` rows or 1 (`source_rows`), which then stands for all.
    "concat": source i [rows, widths[i]] lies right of source i-1. One source: a copy, so a cast.
    """
    held = tuple(source_rows or [rows] * len(widths))
    if not len(widths) == len(x) == len(held) or not 1 <= len(widths) <= MOST_SOURCES:
        raise ValueError(f"elementwise: {len(widths)} widths, {len(x)} formats; up to {MOST_SOURCES} of both")
    if operation == "concat" and held != (rows,) * len(widths):
        raise ValueError(f"elementwise: concat of sources of {held} rows; each needs {rows}")
    if operation != "concat" and (len(widths) != 2 or widths[0] != widths[1] or not {*held} <= {1, rows}):
        raise ValueError(f"elementwise: {operation} of widths {tuple(widths)}, rows {held}; it needs two of one width")
    width = sum(widths) if operation == "concat" else widths[0]
    sources = [Argument(f"x{i}", "r", x[i], (held[i], widths[i])) for i in range(len(widths))]
    padded = [*widths, 0, 0, 0]
    constants = {
        "OPERATION": operation,
        "ROWS": rows,
        **{f"WIDTH_{i}": padded[i] for i in range(MOST_SOURCES)},
        **{f"BROADCAST_{i}": held[i] == 1 if i < len(held) else False for i in range(2)},
    }
    return Task("elementwise", constants, (*sources, Argument("y", "w", y, (rows, width))), flops=0)


def tactics(task: Task, target: str) -> list[Tactic]:
    size = math.prod(task.arguments[-1].shape or ())
    return [Tactic({"BLOCK": min(1 << 16, triton.next_power_of_2(size)) if target == "interpreter" else 1024})]


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    size = math.prod(task.arguments[-1].shape or ())
    return (triton.cdiv(size, tactic.integer("BLOCK")), 1, 1)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    sources = list(arguments.values())
    operation = task.constants["OPERATION"]
    if operation == "concat":
        return {"y": np.concatenate(sources, axis=1)}
    y = sources[0] + sources[1] if operation == "add" else sources[0] - sources[1]
    return {"y": np.broadcast_to(y, task.arguments[-1].shape or ())}


CASES = [
    task("add", 5, [7, 7], x=["f32", "bf16"], y="f32"),
    task("add", 37, [33, 33], x=["f32", "f32"], y="bf16", source_rows=[37, 1]),
    task("subtract", 3, [9, 9], x=["f16", "f16"], y="f16", source_rows=[1, 3]),
    task("concat", 6, [3], x=["f32"], y="bf16"),
    task("concat", 130, [16], x=["bf16"], y="f32"),
    task("concat", 4, [5, 1, 8], x=["f32", "bf16", "f32"], y="f32"),
    task("concat", 9, [2, 3, 4, 300], x=["f16", "f16", "f32", "f16"], y="f16"),
]
