# SPDX-License-Identifier: Apache-2.0
"""Rows in 8 bits: integers with a scale and a zero of their own, or e4m3 with a scale. engine-format.md, 4.1."""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops import reference as float64
from lightwam.kernels.ops.device import e4m3_scale, eight_bit_scale, largest_or_infinity, round_to_eight_bits
from lightwam.kernels.task import Argument, DType, Tactic, Task, given

ROW_WIDTH_LIMIT = 32768  # elements of a row in the registers of 16 warps, 64 a thread
_TILE = 4096  # elements of a program, where rows are shorter
_ELEMENTS_OF_A_WARP = 1024  # 32 a thread: enough loads on their way, registers to spare


@triton.jit
def store_rounded(y, scale, zero, value, row, column, inside_rows, inside, WIDTH: tl.constexpr):
    """Rounds rows to 8 bits and writes y, scale and zero. value f32 [B, W], 0 where not inside; row, inside_rows [B].

    Of integers where there is a `zero`, of e4m3 where it is None.

    A NaN or infinity makes the row's scale not finite; hardware minima and maxima would pass over NaN.
    """
    low = tl.min(value, axis=1)
    high = tl.max(largest_or_infinity(value), axis=1)
    if zero is not None:
        row_scale, inverse, row_zero = eight_bit_scale(low, high)
        rounded = round_to_eight_bits(value, inverse[:, None], row_zero[:, None])
        tl.store(zero + row, row_zero.to(tl.int32), mask=inside_rows)
    else:
        row_scale, inverse = e4m3_scale(low, high)
        rounded = (value * inverse[:, None]).to(tl.float8e4nv)
    tl.store(y + row[:, None] * WIDTH + column[None, :], rounded, mask=inside)
    tl.store(scale + row, row_scale, mask=inside_rows)


@triton.jit
def kernel(x, y, scale, zero, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK)
    inside_rows = row < ROWS
    inside = inside_rows[:, None] & (column < WIDTH)[None, :]
    value = tl.load(x + row[:, None] * WIDTH + column[None, :], mask=inside, other=0.0).to(tl.float32)
    store_rounded(y, scale, zero, value, row, column, inside_rows, inside, WIDTH)


def task(rows: int, width: int, *, x: DType, y: DType = "i8") -> Task:
    """x [rows, width] -> y i8 or f8 [rows, width], scale f32 [rows], and of i8 zero i32 [rows]."""
    if y not in ("i8", "f8"):
        raise ValueError(f"quantize_rows: y is {y}; it must be i8 or f8")
    if width > ROW_WIDTH_LIMIT:
        raise ValueError(f"quantize_rows: rows of {width} elements; up to {ROW_WIDTH_LIMIT} fit into registers")
    arguments = given(
        Argument("x", "r", x, (rows, width)),
        Argument("y", "w", y, (rows, width)),
        Argument("scale", "w", "f32", (rows,)),
        Argument("zero", "w", "i32", (rows,)) if y == "i8" else None,
    )
    return Task("quantize_rows", {"ROWS": rows, "WIDTH": width}, arguments, flops=0)


def row_tactics(rows: int, width: int, target: str) -> list[Tactic]:
    """Tactics of kernels that hold whole rows in registers: BLOCK_ROWS rows of BLOCK (at least `width`) elements."""
    block = triton.next_power_of_2(width)
    most_rows = triton.next_power_of_2(rows)
    if target == "interpreter":
        return [Tactic({"BLOCK_ROWS": min(most_rows, max(1, (1 << 18) // block)), "BLOCK": block})]
    block_rows = min(most_rows, max(1, _TILE // block))
    warps = min(16, max(1, triton.next_power_of_2(block * block_rows) // _ELEMENTS_OF_A_WARP))
    tactics = [Tactic({"BLOCK_ROWS": block_rows, "BLOCK": block}, num_warps=warps)]
    if block_rows > 1 or warps < 16:
        fewer = max(1, block_rows // 4)
        tactics.append(Tactic({"BLOCK_ROWS": fewer, "BLOCK": block}, num_warps=min(16, max(1, 2 * warps))))
    return tactics


def tactics(task: Task, target: str) -> list[Tactic]:
    return row_tactics(task.integer("ROWS"), task.integer("WIDTH"), target)


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    return (triton.cdiv(task.integer("ROWS"), tactic.integer("BLOCK_ROWS")), 1, 1)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    return rounded_rows(arguments["x"], integers="zero" in task.argument_names)


def rounded_rows(x: Array, *, integers: bool, limits: tuple[Array, Array] | None = None) -> dict[str, Array]:
    """y, scale and (of integers) zero of rows x [..., K], in float64. limits: smallest and largest, if known."""
    low, high = limits or (x.min(axis=-1), x.max(axis=-1))
    if not integers:
        scale = float64.e4m3_scale(low, high)
        return {"y": float64.round_to_e4m3(x, scale), "scale": scale}
    scale, zero = float64.eight_bit_scale(low, high)
    return {"y": float64.round_to_eight_bits(x, scale, zero), "scale": scale, "zero": zero}


CASES = [
    task(7, 192, x="f32"),
    task(65, 100, x="bf16"),
    task(1, 9000, x="f32"),
    task(33, 8, x="f16"),
    task(9, 200, x="f32", y="f8"),
    task(65, 96, x="bf16", y="f8"),
]
