# SPDX-License-Identifier: Apache-2.0
"""`nchw_to_nhwc` of docs/reference/engine-format.md, section 4: latents [C, h, w] as rows of channels."""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.task import Argument, DType, Tactic, Task


@triton.jit
def kernel(
    x, y, CHANNELS: tl.constexpr, PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr
):
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = (channel < CHANNELS)[:, None] & (pixel < PIXELS)[None, :]
    value = tl.load(x + channel[:, None] * PIXELS + pixel[None, :], mask=inside, other=0.0).to(tl.float32)
    pointers = y + pixel[:, None] * CHANNELS + channel[None, :]
    tl.store(pointers, tl.trans(value).to(y.dtype.element_ty), mask=tl.trans(inside))


def task(channels: int, height: int, width: int, *, x: DType, y: DType) -> Task:
    """x [channels, height, width] -> y [height, width, channels]."""
    arguments = (Argument("x", "r", x, (channels, height, width)), Argument("y", "w", y, (height, width, channels)))
    return Task("nchw_to_nhwc", {"CHANNELS": channels, "PIXELS": height * width}, arguments, flops=0)


def tactics(task: Task, target: str) -> list[Tactic]:
    side = 512 if target == "interpreter" else 32
    return [Tactic({"BLOCK_CHANNELS": side, "BLOCK_PIXELS": side})]


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    pixels = triton.cdiv(task.integer("PIXELS"), tactic.integer("BLOCK_PIXELS"))
    return (pixels, triton.cdiv(task.integer("CHANNELS"), tactic.integer("BLOCK_CHANNELS")), 1)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    return {"y": arguments["x"].transpose(1, 2, 0)}


CASES = [task(16, 7, 9, x="f32", y="f32"), task(3, 25, 33, x="f32", y="bf16"), task(70, 5, 8, x="f16", y="f16")]
