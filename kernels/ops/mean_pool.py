# SPDX-License-Identifier: Apache-2.0
"""Mean over the rows of a matrix (`mean_pool`, engine-format 4). A program makes a block of columns."""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops.attention_blocks import block_of
from lightwam.kernels.task import Argument, DType, Tactic, Task, check_sizes


@triton.jit
def kernel(x, y, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = tl.arange(0, BLOCK_R)
    pointers = x + row[:, None] * WIDTH + column[None, :]
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, ROWS, BLOCK_R):
        mask = (start + row < ROWS)[:, None] & (column < WIDTH)[None, :]
        total += tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
        pointers += BLOCK_R * WIDTH
    mean = tl.sum(total, 0) / ROWS
    tl.store(y + column, mean.to(y.dtype.element_ty), mask=column < WIDTH)


def task(rows: int, width: int, *, x: DType, y: DType) -> Task:
    """y [1, width]: the mean of the rows of x [rows, width]."""
    check_sizes("mean_pool", rows=rows, width=width)
    arguments = (Argument("x", "r", x, (rows, width)), Argument("y", "w", y, (1, width)))
    return Task("mean_pool", {"ROWS": rows, "WIDTH": width}, arguments, flops=0)


def tactics(task: Task, target: str) -> list[Tactic]:
    rows, width = task.integer("ROWS"), task.integer("WIDTH")
    if target == "interpreter":
        return [Tactic({"BLOCK_R": block_of(rows, 1024), "BLOCK_C": block_of(width, 2048)})]
    return [Tactic({"BLOCK_R": 64, "BLOCK_C": 32}), Tactic({"BLOCK_R": 32, "BLOCK_C": 64})]


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    return (triton.cdiv(task.integer("WIDTH"), tactic.integer("BLOCK_C")), 1, 1)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    return {"y": arguments["x"].mean(0, keepdims=True)}


CASES = [
    task(8, 80, x="f32", y="f32"),
    task(130, 33, x="f16", y="f16"),
    task(77, 100, x="bf16", y="f32"),
    task(1, 16, x="f32", y="bf16"),
]
