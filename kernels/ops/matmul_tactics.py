# SPDX-License-Identifier: Apache-2.0
"""Tile shapes for matmul.py: candidates for each kind of tensor core, ordered by an estimate of their time.

The estimate counts cycles of the most loaded multiprocessor: its multiply-adds at the rate of the tensor cores (or the
rate at which they are fed from shared memory), and its tile's bytes through the second-level cache. It only has to
order candidates: the runtime may time those that are compiled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from triton import next_power_of_2

from lightwam.kernels.targets import LATENCY, Target, tuned_target
from lightwam.kernels.task import ELEMENT_BYTES, Tactic, Task

MOST_TACTICS = 4
_FILL = 48  # bytes a cycle that one multiprocessor takes from the second-level cache
_OVERHEAD = 2500  # cycles of a tile's start (first loads) and end (activation, store)


@dataclass(frozen=True)
class _Tile:
    m: int
    n: int
    k_bytes: int  # of the weight's row a step
    warps: int
    stages: int


_MMA = (
    _Tile(128, 256, 64, 8, 3),
    _Tile(128, 128, 64, 4, 4),
    _Tile(128, 128, 128, 8, 3),
    _Tile(128, 128, 64, 8, 4),
    _Tile(128, 64, 128, 4, 3),
    _Tile(64, 128, 128, 4, 3),
    _Tile(64, 128, 128, 8, 3),
    _Tile(64, 64, 128, 4, 4),
    _Tile(32, 128, 128, 4, 4),
    _Tile(32, 64, 128, 4, 4),
)
_WARP_GROUP = (
    _Tile(128, 256, 128, 8, 3),
    _Tile(128, 128, 128, 8, 3),
    _Tile(128, 128, 128, 4, 4),
    _Tile(64, 256, 128, 8, 3),
    _Tile(64, 128, 128, 4, 4),
    _Tile(128, 64, 128, 4, 4),
    _Tile(64, 64, 128, 4, 5),
)
# A few rows: time is what the weights take to arrive, so many small programs with many bytes on their way each.
_FEW_ROWS = (
    _Tile(32, 64, 256, 4, 4),
    _Tile(32, 32, 256, 4, 4),
    _Tile(32, 16, 256, 4, 5),
    _Tile(16, 64, 256, 4, 4),
    _Tile(16, 32, 256, 4, 4),
    _Tile(16, 16, 256, 4, 5),
)


def tactics(task: Task, target: str) -> list[Tactic]:
    """Tactics of a `matmul` task, the best guess first. ValueError for a target that is not in the table."""
    rows, n = task.integer("ROWS"), task.integer("N")
    if target == "interpreter":
        return [_tactic(task, _Tile(128, 256, 512, 4, 1), step_sums=False)]
    device = tuned_target("matmul", target)
    tiles = list(_WARP_GROUP if device.tactics == "warp_group" else _MMA)
    if rows <= 64:
        tiles = [*_FEW_ROWS, _Tile(64, 64, 128, 4, 4)]
    if task.constants["STATISTICS"] != "none":
        tiles = [tile for tile in tiles if tile.n % 64 == 0]
    most_sums = _most_sums(task, device)
    step_sums = task.product_type == "f8" and device.tensor_core != "tcgen05"
    tiles = [
        tile
        for tile in tiles
        if tile.m < 2 * max(rows, 16)
        and tile.m * tile.n <= most_sums * 32 * tile.warps
        and _shared_bytes(task, tile, device) <= device.shared_bytes
    ]
    tiles = [tile for tile in tiles if n % tile.n == 0] or tiles
    tiles.sort(key=lambda tile: _cycles(task, tile, device))
    found: dict[tuple[object, ...], Tactic] = {}  # those that differ in more than stages
    for tactic in (_tactic(task, tile, step_sums) for tile in tiles):
        found.setdefault((*tactic.constants.values(), tactic.num_warps), tactic)
    return list(found.values())[:MOST_TACTICS]


def _most_sums(task: Task, device: Target) -> int:
    """Sums that a thread may hold without spilling, seen in compiled code.

    Operands of f32 matmuls come in parts. A short loop is unrolled whole, and a residual's tile is fetched beside it.
    """
    if task.product_type == "f32":
        return 32 if device.tensor_core == "mma" else 64
    if task.product_type == "i8" and device.tensor_core == "tcgen05":
        return 64  # mma there, with larger sums beside the steps in f32
    if task.product_type == "f8":
        return 64  # two of each, the step's and all; or, from tcgen05, with scales beside them
    short = task.integer("K") <= 512 and "residual" in task.argument_names
    return 64 if short else 128


def _tactic(task: Task, tile: _Tile, step_sums: bool) -> Tactic:
    """`step_sums`: f8 matmuls are summed in f32 after every step; tcgen05 has wide sums, and far from registers."""
    rows, n = task.integer("ROWS"), task.integer("N")
    least = 64 if task.constants["STATISTICS"] != "none" else 16
    constants = {
        "BLOCK_M": tile.m,
        "TAIL_M": _tail(rows, tile.m),
        "BLOCK_N": tile.n if n >= tile.n else max(least, next_power_of_2(n)),
        "BLOCK_K": _block_k(task, tile),
        "STEP_SUMS": step_sums,
    }
    return Tactic(constants, num_warps=tile.warps, num_stages=tile.stages)


def _tail(rows: int, block: int) -> int:
    """Height of the tile of the rows past the last whole block: 0 if none, `block` if one more block is as good."""
    rest = rows % block
    if rest == 0:
        return 0
    height = max(16, next_power_of_2(rest))
    return height if rows > block and height < block else block


def _element_bytes(task: Task) -> tuple[int, int]:
    """Of x, of the weight."""
    return ELEMENT_BYTES[task.dtype("x")], ELEMENT_BYTES[task.dtype("weight")]


def _block_k(task: Task, tile: _Tile) -> int:
    """Columns a step: a power of two that divides K where there is one of at least 32, so that nothing is masked."""
    k = task.integer("K")
    block = min(max(32, tile.k_bytes // _element_bytes(task)[1]), max(32, next_power_of_2(k)))
    if task.constants["X_MODE"] in ("layer_norm", "quantize"):  # these pass x through registers: 32 a thread
        block = max(32, min(block, 32 * 32 * tile.warps // tile.m))
    divisor = k & -k
    return min(block, divisor) if divisor >= 32 else block


def _shared_bytes(task: Task, tile: _Tile, device: Target) -> int:
    """Bytes of tiles in shared memory: one step less than stages where operands move on to registers."""
    x, weight = _element_bytes(task)
    steps = tile.stages - 1 if device.tensor_core == "mma" else tile.stages
    return (tile.m * x + tile.n * weight) * _block_k(task, tile) * max(1, steps)


def _cycles(task: Task, tile: _Tile, device: Target) -> float:
    """Estimated cycles of the launch with this tile."""
    rows, n, k = (task.integer(name) for name in ("ROWS", "N", "K"))
    x, weight = _element_bytes(task)
    columns = math.ceil(n / tile.n) * task.integer("GROUPS")
    tail = _tail(rows, tile.m)
    whole = rows // tile.m if tail not in (0, tile.m) else math.ceil(rows / tile.m)
    programs = columns * (whole + (tail not in (0, tile.m)))
    resident = min(
        device.shared_bytes // _shared_bytes(task, tile, device), 48 // tile.warps, 512 * 128 // (tile.m * tile.n)
    )
    resident = max(1, min(resident, math.ceil(programs / device.multiprocessors)))
    rate = device.matmul_rate * (2 / weight if task.product_type != "f32" else 1 / 8)
    if device.tensor_core == "mma":
        warp_m, warp_n = tile.m / 2, tile.n / (tile.warps / 2)
        rate = min(rate, 128 * warp_m * warp_n / ((warp_m + warp_n) * weight))
    step_bytes = tile.m * x + tile.n * weight
    flow = min(_FILL, resident * _shared_bytes(task, tile, device) / LATENCY)
    one = max(tile.m * tile.n * k / rate, step_bytes * k / flow) + _OVERHEAD / resident
    small = (
        max(tail * tile.n * k / rate, (tail * x + tile.n * weight) * k / flow) if programs > columns * whole else 0.0
    )
    spread = (columns * whole * one + columns * small) / device.multiprocessors
    traffic = (columns * whole * step_bytes + columns * (tail * x + tile.n * weight) * bool(small)) * k
    cache = traffic / (device.cache_rate * device.multiprocessors)
    return max(math.ceil(columns * whole / device.multiprocessors) * one, spread, cache)
