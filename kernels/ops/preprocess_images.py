# SPDX-License-Identifier: Apache-2.0
"""`preprocess_images` of engine-format.md, section 2: camera frames of any size to the canvas the VAE reads.

A program makes a block of one camera's pixels. The weight of source row j for output row i of a resize from `in` to
`out` rows is max(0, 1 - |(2j+1) out - (2i+1) in| / (2 max(in, out))), normalised: whole numbers up to the division.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.task import Argument, Constant, DType, Tactic, Task

MOST_CAMERAS = 8
#: Rows and columns of the canvas and of frames (the runtime refuses larger ones): offsets are counted in 32 bits.
MOST_ROWS = 1 << 14
CHANNELS = 3


@dataclass(frozen=True)
class Camera:
    """Where a camera's picture lies on the canvas, and whether it is turned by 180 degrees first."""

    top: int
    left: int
    height: int
    width: int
    rotate_180: bool = False


@triton.constexpr_function
def _number(cameras, camera, field):
    """A field of a camera (see `_text`)."""
    return int(cameras.split(";")[camera].split(",")[field])


@triton.jit
def _weight(source, size, target, TARGET_SIZE: tl.constexpr):
    """Weight of source row `source` (scalar or [B]) for output rows `target` [B], not normalised; 0 past the last."""
    distance = tl.abs((2 * source + 1) * TARGET_SIZE - (2 * target + 1) * size).to(tl.float32)
    weight = tl.maximum(1.0 - distance / (2 * tl.maximum(size, TARGET_SIZE)).to(tl.float32), 0.0)
    return tl.where(source < size, weight, 0.0)


@triton.jit
def _first(size, target, TARGET_SIZE: tl.constexpr):
    """A source row at or before the first of weight above 0, not before row 0."""
    before = (2 * target + 1) * size - 2 * tl.maximum(size, TARGET_SIZE) - TARGET_SIZE
    return tl.maximum(before, 0) // (2 * TARGET_SIZE)


@triton.jit
def _steps(size, TARGET_SIZE: tl.constexpr):
    """Source rows from `_first` on that hold all of weight above 0."""
    return (2 * tl.maximum(size, TARGET_SIZE) + TARGET_SIZE - 1) // TARGET_SIZE + 1


@triton.jit
def _camera(
    frame,
    height,
    width,
    y,
    CANVAS_WIDTH: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    ROTATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < HEIGHT * WIDTH
    row = pixel // WIDTH
    column = pixel % WIDTH
    first_row = _first(height, row, HEIGHT)
    first_column = _first(width, column, WIDTH)
    red = tl.zeros([BLOCK], dtype=tl.float32)
    green = tl.zeros([BLOCK], dtype=tl.float32)
    blue = tl.zeros([BLOCK], dtype=tl.float32)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for down in range(_steps(height, HEIGHT)):
        source_row = first_row + down
        row_weight = _weight(source_row, height, row, HEIGHT)
        for right in range(_steps(width, WIDTH)):
            source_column = first_column + right
            weight = row_weight * _weight(source_column, width, column, WIDTH)
            place = source_row * width + source_column
            if ROTATE:
                place = height * width - 1 - place
            seen = inside & (weight > 0.0)
            red += weight * tl.load(frame + 3 * place, mask=seen, other=0).to(tl.float32)
            green += weight * tl.load(frame + 3 * place + 1, mask=seen, other=0).to(tl.float32)
            blue += weight * tl.load(frame + 3 * place + 2, mask=seen, other=0).to(tl.float32)
            total += weight
    # (v / 255 - 0.5) / 0.5
    factor = 2.0 / (255.0 * total)
    target = y + 3 * ((TOP + row) * CANVAS_WIDTH + LEFT + column)
    tl.store(target, (red * factor - 1.0).to(y.dtype.element_ty), mask=inside)
    tl.store(target + 1, (green * factor - 1.0).to(y.dtype.element_ty), mask=inside)
    tl.store(target + 2, (blue * factor - 1.0).to(y.dtype.element_ty), mask=inside)


@triton.jit
def kernel(
    frame0,
    frame1,
    frame2,
    frame3,
    frame4,
    frame5,
    frame6,
    frame7,
    frame_sizes,
    y,
    CAMERAS: tl.constexpr,
    COUNT: tl.constexpr,
    CANVAS_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    for camera in tl.static_range(COUNT):
        if tl.program_id(1) == camera:
            height = tl.load(frame_sizes + 2 * camera)
            width = tl.load(frame_sizes + 2 * camera + 1)
            _camera(
                (frame0, frame1, frame2, frame3, frame4, frame5, frame6, frame7)[camera],
                height,
                width,
                y,
                CANVAS_WIDTH,
                _number(CAMERAS, camera, 0),
                _number(CAMERAS, camera, 1),
                _number(CAMERAS, camera, 2),
                _number(CAMERAS, camera, 3),
                _number(CAMERAS, camera, 4),
                BLOCK,
            )


def _text(cameras: Sequence[Camera]) -> str:
    """The cameras as one constant: "top,left,height,width,rotated;..."."""
    return ";".join(f"{c.top},{c.left},{c.height},{c.width},{int(c.rotate_180)}" for c in cameras)


def cameras_of(task: Task) -> list[Camera]:
    """The cameras of a task, in the order of its frames."""
    fields = [[int(field) for field in text.split(",")] for text in str(task.constants["CAMERAS"]).split(";")]
    return [Camera(top, left, height, width, bool(rotated)) for top, left, height, width, rotated in fields]


def task(cameras: Sequence[Camera], canvas: tuple[int, int], *, y: DType) -> Task:
    """frame0, frame1, ... u8 [h, w, 3] of any size, frame_sizes i32 [cameras, 2] -> y [canvas h, canvas w, 3] in -1..1.

    The cameras' rectangles tile the canvas (they are not checked here). ValueError for more than MOST_CAMERAS, or a
    canvas of more than MOST_ROWS in a direction.
    """
    if not 1 <= len(cameras) <= MOST_CAMERAS:
        raise ValueError(f"preprocess_images: {len(cameras)} cameras; a launch takes 1 to {MOST_CAMERAS}")
    if max(canvas) > MOST_ROWS:
        raise ValueError(f"preprocess_images: canvas {list(canvas)}; rows and columns are at most {MOST_ROWS}")
    frames = [Argument(f"frame{index}", "r", "u8", None) for index in range(len(cameras))]
    arguments = (
        *frames,
        Argument("frame_sizes", "r", "i32", (len(cameras), 2)),
        Argument("y", "w", y, (*canvas, CHANNELS)),
    )
    constants: dict[str, Constant] = {"CAMERAS": _text(cameras), "COUNT": len(cameras), "CANVAS_WIDTH": canvas[1]}
    return Task("preprocess_images", constants, arguments, flops=0)


def tactics(task: Task, target: str) -> list[Tactic]:
    return [Tactic({"BLOCK": 1 << 14 if target == "interpreter" else 128})]


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    cameras = cameras_of(task)
    most = max(camera.height * camera.width for camera in cameras)
    return (triton.cdiv(most, tactic.integer("BLOCK")), len(cameras), 1)


def _resize_weights(size: int, target_size: int) -> Array:
    """[target_size, size], rows sum to 1: a triangle of support max(1, in / out), half-pixel centres."""
    support = max(1.0, size / target_size)
    centres = (np.arange(target_size) + 0.5) * size / target_size
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(size)[None] + 0.5 - centres[:, None]) / support)
    return weights / weights.sum(axis=1, keepdims=True)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    y = np.full(task.arguments[-1].shape or (), np.nan)
    for index, camera in enumerate(cameras_of(task)):
        height, width = arguments["frame_sizes"][index]
        frame = arguments[f"frame{index}"].reshape(height, width, CHANNELS) / 255.0
        frame = frame[::-1, ::-1] if camera.rotate_180 else frame
        rows, columns = _resize_weights(height, camera.height), _resize_weights(width, camera.width)
        picture = np.einsum("ai,bj,ijc->abc", rows, columns, frame, optimize=True)
        y[camera.top : camera.top + camera.height, camera.left : camera.left + camera.width] = 2.0 * picture - 1.0
    return {"y": y}


def example(task: Task, generator: np.random.Generator) -> dict[str, Array]:
    """Frames larger than their rectangles, smaller, and of one pixel."""
    sizes = np.array([[13, 9], [3, 5], [1, 1], [6, 11]])[np.arange(task.integer("COUNT")) % 4]
    frames = {f"frame{i}": generator.integers(0, 256, (h, w, CHANNELS)) for i, (h, w) in enumerate(sizes)}
    return {**frames, "frame_sizes": sizes}


CASES = [
    task([Camera(0, 0, 12, 9)], (12, 9), y="f32"),
    task([Camera(0, 0, 8, 8, True), Camera(0, 8, 8, 12, True)], (8, 20), y="bf16"),
    task([Camera(0, 0, 6, 10), Camera(6, 0, 4, 5, True), Camera(6, 5, 4, 5)], (10, 10), y="f32"),
    task([Camera(0, 6 * i, 6, 6, i % 2 == 0) for i in range(8)], (6, 48), y="f16"),
]
