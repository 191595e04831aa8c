# SPDX-License-Identifier: Apache-2.0
"""RMS norm of whole rows, then rotation of every head's interleaved pairs (`rms_norm_rope`, engine-format 4).

A program makes BLOCK_R rows at once, so a row is read once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops.device import inverse_root
from lightwam.kernels.task import Argument, DType, Tactic, Task


@triton.jit
def kernel(
    x,
    weight,
    cos,
    sin,
    y,
    ROWS: tl.constexpr,
    ROW: tl.constexpr,
    WIDTH: tl.constexpr,  # of one head
    EPS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.arange(0, BLOCK_C)
    offsets = row[:, None] * ROW + column[None, :]
    mask = (row < ROWS)[:, None] & (column < ROW)[None, :]
    block = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    scale = inverse_root(tl.sum(block * block, 1) / ROW + EPS)
    normal = block * scale[:, None] * tl.load(weight + column, mask=column < ROW, other=0.0)[None, :]
    even, odd = tl.split(tl.reshape(normal, (BLOCK_R, BLOCK_C // 2, 2)))
    pair = tl.arange(0, BLOCK_C // 2)
    angles = row[:, None] * (WIDTH // 2) + (pair % (WIDTH // 2))[None, :]
    angle_mask = (row < ROWS)[:, None] & (pair < ROW // 2)[None, :]
    cosine = tl.load(cos + angles, mask=angle_mask, other=0.0)
    sine = tl.load(sin + angles, mask=angle_mask, other=0.0)
    turned = tl.join(even * cosine - odd * sine, even * sine + odd * cosine)
    tl.store(y + offsets, tl.reshape(turned, (BLOCK_R, BLOCK_C)).to(y.dtype.element_ty), mask=mask)


def task(rows: int, heads: int, width: int, *, x: DType, y: DType, eps: float) -> Task:
    """y [rows, heads * width] of x, weight f32 [heads * width] and cos, sin f32 [rows, width / 2]."""
    if min(rows, heads, width) < 1 or width % 2 or not eps > 0.0:
        raise ValueError(f"rms_norm_rope: {rows} rows, {heads} heads of {width}, eps {eps}; an even width is needed")
    row = heads * width
    arguments = (
        Argument("x", "r", x, (rows, row)),
        Argument("weight", "r", "f32", (row,)),
        Argument("cos", "r", "f32", (rows, width // 2)),
        Argument("sin", "r", "f32", (rows, width // 2)),
        Argument("y", "w", y, (rows, row)),
    )
    return Task("rms_norm_rope", {"ROWS": rows, "ROW": row, "WIDTH": width, "EPS": eps}, arguments, flops=0)


def tactics(task: Task, target: str) -> list[Tactic]:
    columns = int(triton.next_power_of_2(task.integer("ROW")))
    if target == "interpreter":
        return [Tactic({"BLOCK_R": max(1, (1 << 19) // columns), "BLOCK_C": columns})]
    rows = max(1, 2048 // columns)
    return [
        Tactic({"BLOCK_R": rows, "BLOCK_C": columns}),
        Tactic({"BLOCK_R": 2 * rows, "BLOCK_C": columns}, num_warps=8),
    ]


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    return (triton.cdiv(task.integer("ROWS"), tactic.integer("BLOCK_R")), 1, 1)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    x, width = arguments["x"], task.integer("WIDTH")
    mean_square = np.mean(x * x, axis=1, keepdims=True)
    normal = x / np.sqrt(mean_square + task.real("EPS")) * arguments["weight"]
    return {"y": rotate_pairs(normal, arguments["cos"], arguments["sin"], width)}


def rotate_pairs(x: Array, cos: Array, sin: Array, width: int) -> Array:
    """x [rows, heads * width] with the pairs (2i, 2i+1) of heads turned by angles of cos, sin [rows, width / 2]."""
    pairs = x.reshape(len(x), -1, width // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cosine, sine = cos[:, None], sin[:, None]
    return np.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).reshape(x.shape)


def example(task: Task, generator: np.random.Generator) -> dict[str, Array]:
    """Tables of angles."""
    angles = generator.uniform(0.0, 2.0 * np.pi, task.shape("cos"))
    return {"cos": np.cos(angles), "sin": np.sin(angles)}


CASES = [
    task(7, 3, 24, x="f32", y="f32", eps=1e-6),
    task(33, 4, 20, x="bf16", y="bf16", eps=1e-6),
    task(5, 2, 128, x="f16", y="f16", eps=1e-3),
    task(9, 12, 128, x="bf16", y="f32", eps=1e-6),
]
