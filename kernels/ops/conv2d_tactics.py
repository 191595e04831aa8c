# SPDX-License-Identifier: Apache-2.0
"""Tile shapes for conv2d.py, ordered by an estimate: whole rounds of programs, slower where tiles are small."""

from __future__ import annotations

import math

from triton import next_power_of_2

from lightwam.kernels.targets import Target, tuned_target
from lightwam.kernels.task import ELEMENT_BYTES, Constant, Tactic, Task

MOST_TACTICS = 4
MOST_NORMED = 256  # channels of a tile that norms its rows
_MOST_CHANNELS = 256  # of a tile


def tactics(task: Task, target: str) -> list[Tactic]:
    """Tactics of a `conv2d` task, the best guess first. ValueError for a target that is not in the table."""
    if target == "interpreter":
        return [_interpreted(task)]
    device = tuned_target("conv2d", target)
    least_rows = 64 if device.tactics == "warp_group" else 32  # of the smallest good tile
    tiles = [
        (rows, columns, warps)
        for rows in (32, 64, 128)
        for columns in _column_blocks(task)
        for warps in (4, 8)
        if rows >= least_rows and rows * sum(columns) >= 8 * 32 * warps
    ]
    fitting = [tile for tile in tiles if tile[0] * sum(tile[1]) <= _most_sums(task, tile[2]) * 32 * tile[2]]
    tiles = fitting or [tile for tile in tiles if tile[0] == least_rows and tile[2] == 8]
    tiles.sort(key=lambda tile: _time(task, device, *tile))
    return [_tactic(task, device, *tile) for tile in tiles[:MOST_TACTICS]]


def _split(columns: int) -> tuple[int, int]:
    """One or two powers of two, of at least 16 each, that cover `columns` with little to spare."""
    whole = next_power_of_2(columns)
    largest = max(16, whole if whole - columns < 16 else whole // 2)
    return (largest, max(16, next_power_of_2(columns - largest)) if columns > largest else 0)


def _column_blocks(task: Task) -> list[tuple[int, int]]:
    """Columns of a tile: all channels where the task norms them, otherwise some shapes without much waste."""
    cout = task.integer("COUT")
    names = task.argument_names
    if "z" in names:
        return [_split(cout)]
    least = 64 if "statistics" in names else 16
    blocks = {(max(least, block), 0) for block in (64, 128, 256) if block <= max(next_power_of_2(cout), least)}
    if cout <= _MOST_CHANNELS and not ("statistics" in names and min(filter(None, _split(cout))) < 64):
        blocks.add(_split(cout))
    if cout % 192 == 0:
        blocks.add((128, 64))
    fullest = max(cout / (math.ceil(cout / sum(block)) * sum(block)) for block in blocks)
    return sorted(b for b in blocks if cout / (math.ceil(cout / sum(b)) * sum(b)) >= 0.9 * fullest)


def _block_k(task: Task, most: int) -> int:
    """Numbers a step: of one tap where its channels allow it, otherwise across taps."""
    cin = task.integer("CIN")
    depth = cin * task.integer("KERNEL_HEIGHT") * task.integer("KERNEL_WIDTH")
    divisor = cin & -cin
    return min(most, divisor) if divisor >= 32 else max(16, min(most, next_power_of_2(depth)))


def _most_sums(task: Task, warps: int) -> int:
    """Sums a thread may hold: a residual, a norm's second output, operands of f32 need registers beside them."""
    heavy = {"residual", "z"} & task.argument_names
    most = 112 if not heavy else 64 if warps == 4 else 96
    return most if task.product_type != "f32" else most // 3


def _tactic(task: Task, device: Target, rows: int, columns: tuple[int, int], warps: int) -> Tactic:
    """The tile with as many stages as fit: short steps rather than few on their way."""
    element = ELEMENT_BYTES[task.dtype("x")]
    step_bytes, stages, block_k = 256, 0, 0
    while stages < 3 and step_bytes > 32:
        step_bytes //= 2
        block_k = _block_k(task, step_bytes // element)
        stages = min(4, device.shared_bytes // ((rows + sum(columns)) * block_k * element))
    # Matmuls of f32 by three of the tensor cores' (relative error about 2^-21); other formats are exact anyway.
    precision = "tf32x3" if task.product_type == "f32" else "ieee"
    return Tactic(_constants(rows, columns, block_k, precision), num_warps=warps, num_stages=stages)


def _constants(rows: int, columns: tuple[int, int], block_k: int, precision: str) -> dict[str, Constant]:
    first, more = columns
    return {"BLOCK_M": rows, "BLOCK_N": first, "BLOCK_N_MORE": more, "BLOCK_K": block_k, "PRECISION": precision}


def _time(task: Task, device: Target, rows: int, blocks: tuple[int, int], warps: int) -> float:
    """Relative time: rounds of programs over the multiprocessors, each as long as its multiply-adds and its loads."""
    pixels = task.integer("OUT_HEIGHT") * task.integer("OUT_WIDTH")
    columns = sum(blocks)
    programs = math.ceil(pixels / rows) * math.ceil(task.integer("COUT") / columns)
    intensity = rows * columns / (rows + columns)  # multiply-adds a number read from shared memory
    tile = rows * columns * (1 + 24 / intensity) * (1.05 if warps == 8 and rows * columns <= 8192 else 1.0)
    return math.ceil(programs / device.multiprocessors) * tile


def _interpreted(task: Task) -> Tactic:
    """Large tiles: the interpreter's cost is operations, not numbers."""
    pixels = task.integer("OUT_HEIGHT") * task.integer("OUT_WIDTH")
    first, more = _split(task.integer("COUT"))
    cin = task.integer("CIN")
    block_k = min(512, cin & -cin) if cin % 4 == 0 else _block_k(task, 512)
    if "statistics" in task.argument_names:
        first, more = max(64, next_power_of_2(task.integer("COUT"))), 0
    rows = max(16, min(next_power_of_2(pixels), (1 << 20) // max(block_k, first)))
    return Tactic(_constants(rows, (first, more), block_k, "ieee"))
