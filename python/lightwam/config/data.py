# SPDX-License-Identifier: Apache-2.0
"""What goes into a policy and comes out, as frozen dataclasses: parts of `LightWAMConfig`, import them from there."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightwam.config.checks import require, require_positive

NORMALIZATION_MODES: tuple[str, ...] = ("min/max", "q01/q99", "z-score")


@dataclass(frozen=True)
class Camera:
    """One camera's rectangle on the canvas (pixels) and the flips that turn its raw image upright."""

    name: str
    top: int
    left: int
    height: int
    width: int
    flip_vertical: bool = False
    flip_horizontal: bool = False

    def __post_init__(self) -> None:
        require(self.name != "", "camera.name", self.name, "give the camera a name")
        require_positive(f"camera {self.name}", height=self.height, width=self.width)
        require(min(self.top, self.left) >= 0, f"camera {self.name}", (self.top, self.left), "corners must be >= 0")


@dataclass(frozen=True)
class CameraLayout:
    """How the cameras, each resized to its rectangle, join into one canvas (pixels, H x W)."""

    height: int
    width: int
    cameras: tuple[Camera, ...]

    def __post_init__(self) -> None:
        size = (self.height, self.width)
        require(min(size) > 0 and self.height % 16 == self.width % 16 == 0, "cameras canvas", size,
                "height and width must be positive multiples of 16")  # fmt: skip
        names = [camera.name for camera in self.cameras]
        require(0 < len(names) == len(set(names)), "cameras", names, "give at least one camera, each name once")
        for camera in self.cameras:
            inside = camera.top + camera.height <= self.height and camera.left + camera.width <= self.width
            require(inside, f"camera {camera.name}", camera, f"its rectangle must lie inside the canvas {size}")
        covered = sum(camera.height * camera.width for camera in self.cameras)
        apart = all(_apart(a, b) for i, a in enumerate(self.cameras) for b in self.cameras[i + 1 :])
        require(apart and covered == self.height * self.width, "cameras", names, "rectangles must tile the canvas")


def _apart(a: Camera, b: Camera) -> bool:
    """Whether two camera rectangles share no pixel."""
    beside = a.left + a.width <= b.left or b.left + b.width <= a.left
    return beside or a.top + a.height <= b.top or b.top + b.height <= a.top


@dataclass(frozen=True)
class NormalizationConfig:
    """Modes of the state and action normalisers: 'min/max', 'q01/q99', 'z-score', or constants such as '-1/1'."""

    state: str = "min/max"
    action: str = "min/max"
    clamp: float = 5.0

    def __post_init__(self) -> None:
        require_positive("normalization", clamp=self.clamp)
        for name, mode in (("state", self.state), ("action", self.action)):
            require(mode in NORMALIZATION_MODES or _is_constant_range(mode), f"normalization.{name}", mode,
                    f"use one of {NORMALIZATION_MODES} or two rising numbers such as '-1/1'")  # fmt: skip


def _is_constant_range(mode: str) -> bool:
    try:
        low, high = (float(part) for part in mode.split("/"))
    except ValueError:
        return False
    return math.isfinite(low) and math.isfinite(high) and low < high
