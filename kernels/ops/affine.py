# SPDX-License-Identifier: Apache-2.0
"""Chains of `scale_shift_clamp`, and `gripper_rule`, of engine-format.md, section 4: state in, actions out.

NaN passes through (a clamp by hardware minima would hide it), so that the runtime sees it in the actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops.elementwise import grid as grid
from lightwam.kernels.task import Argument, Constant, DType, Tactic, Task

MOST_STEPS = 2


@triton.jit
def _step(value, scale, shift, column, mask, MINIMUM: tl.constexpr, MAXIMUM: tl.constexpr):
    value = value * tl.load(scale + column, mask=mask, other=0.0) + tl.load(shift + column, mask=mask, other=0.0)
    if MINIMUM is not None:
        value = tl.where(value < MINIMUM, MINIMUM, value)
    if MAXIMUM is not None:
        value = tl.where(value > MAXIMUM, MAXIMUM, value)
    return value


@triton.jit
def kernel(
    x,
    scale0,
    shift0,
    scale1,
    shift1,
    y,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    MINIMUM_0: tl.constexpr,
    MAXIMUM_0: tl.constexpr,
    MINIMUM_1: tl.constexpr,
    MAXIMUM_1: tl.constexpr,
    GRIPPER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = index < ROWS * WIDTH
    column = index % WIDTH
    value = tl.load(x + index, mask=mask, other=0.0).to(tl.float32)
    if scale0 is not None:
        value = _step(value, scale0, shift0, column, mask, MINIMUM_0, MAXIMUM_0)
    if scale1 is not None:
        value = _step(value, scale1, shift1, column, mask, MINIMUM_1, MAXIMUM_1)
    if GRIPPER is not None:
        opening = 1.0 - 2.0 * value
        sign = tl.where(opening > 0.0, 1.0, tl.where(opening < 0.0, -1.0, opening))
        value = tl.where(column == GRIPPER, sign, value)
    tl.store(y + index, value.to(y.dtype.element_ty), mask=mask)


def task(
    rows: int,
    width: int,
    *,
    x: DType,
    y: DType,
    steps: int = 1,
    minimum: Sequence[float | None] = (None, None),
    maximum: Sequence[float | None] = (None, None),
    gripper_column: int | None = None,
) -> Task:
    """Arguments x [rows, width], then scale0, shift0, ... f32 [width] of each step, y [rows, width].

    A step is clamp(value * scale + shift, minimum[i], maximum[i]); None leaves a side open. After them, the column
    `gripper_column` becomes sign(-(2g - 1)). No step (steps=0) leaves the gripper rule alone.
    """
    if not 0 <= steps <= MOST_STEPS or min(len(minimum), len(maximum)) < steps:
        raise ValueError(f"affine: {steps} steps with {len(minimum)} minima; up to {MOST_STEPS}, one minimum for each")
    if gripper_column is not None and not 0 <= gripper_column < width:
        raise ValueError(f"affine: gripper column {gripper_column} of {width} columns; it must be one of them")
    factors = [Argument(f"{kind}{i}", "r", "f32", (width,)) for i in range(steps) for kind in ("scale", "shift")]
    constants: dict[str, Constant] = {"ROWS": rows, "WIDTH": width, "GRIPPER": gripper_column}
    for i in range(MOST_STEPS):
        constants[f"MINIMUM_{i}"] = minimum[i] if i < steps else None
        constants[f"MAXIMUM_{i}"] = maximum[i] if i < steps else None
    shape = (rows, width)
    return Task("affine", constants, (Argument("x", "r", x, shape), *factors, Argument("y", "w", y, shape)), flops=0)


def tactics(task: Task, target: str) -> list[Tactic]:
    size = task.integer("ROWS") * task.integer("WIDTH")
    return [Tactic({"BLOCK": min(1 << 16, triton.next_power_of_2(size)) if target == "interpreter" else 256})]


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    y = arguments["x"]
    for i in range(MOST_STEPS):
        if f"scale{i}" in arguments:
            y = y * arguments[f"scale{i}"] + arguments[f"shift{i}"]
            minimum, maximum = task.constants[f"MINIMUM_{i}"], task.constants[f"MAXIMUM_{i}"]
            y = y if minimum is None else np.maximum(y, float(str(minimum)))
            y = y if maximum is None else np.minimum(y, float(str(maximum)))
    if task.constants["GRIPPER"] is not None:
        column = task.integer("GRIPPER")
        y = y.copy()
        y[:, column] = np.sign(1.0 - 2.0 * y[:, column])
    return {"y": y}


CASES = [
    task(1, 8, x="f32", y="f32"),
    task(1, 8, x="f32", y="f32", steps=2, minimum=[None, -0.5], maximum=[None, 0.5]),
    task(32, 7, x="f32", y="f32", minimum=[-1.0], maximum=[None], gripper_column=6),
    task(50, 14, x="bf16", y="f32", steps=2, maximum=[0.25, None], gripper_column=0),
    task(5, 7, x="f32", y="bf16", steps=0, gripper_column=6),
]
