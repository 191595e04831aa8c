# SPDX-License-Identifier: Apache-2.0
"""A robot as a policy sees it: cameras, state, actions, control rate, gripper, normalisation, prompt.

`RobotConfig` is a part of `LightWAMConfig`, and the content of a robot file (docs/guides/add-a-robot.md).
Two places meet a robot: the data set that was recorded from it (`in_data`, `data_open`, ...), and the robot that runs
the policy (`on_robot`, `robot_open`, ...). They may differ.
"""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightwam.arithmetic import default_arithmetic
from lightwam.config.checks import require, require_positive, require_unique

FloatArray = npt.NDArray[np.floating[Any]]
Orientation = Literal["upright", "rotated_180", "flipped_vertical", "flipped_horizontal"]

FLIPS: dict[Orientation, tuple[bool, bool]] = {
    "upright": (False, False),
    "rotated_180": (True, True),
    "flipped_vertical": (True, False),
    "flipped_horizontal": (False, True),
}
"""The flips (up-down, left-right) that turn an image upright."""
NORMALIZATION_MODES: tuple[str, ...] = ("min/max", "q01/q99", "z-score")
UNITS = ("m", "mm", "rad", "deg", "m/s", "rad/s", "deg/s", "N", "Nm", "A", "V", "Pa", "s", "%", "count", "1")
"""Units of state and action dimensions; '1' is a plain number, such as a command in +-1."""


@dataclass(frozen=True)
class Camera:
    """One camera: its rectangle on the canvas (pixels), and how its raw images lie compared to an upright one."""

    name: str
    top: int
    left: int
    height: int
    width: int
    in_data: Orientation = "upright"
    """Of the images that the data set holds."""
    on_robot: Orientation = "upright"
    """Of the images that the live robot delivers. An engine turns by 180 degrees or not at all."""
    data_name: str | None = None
    """The camera's name in the data set. None: the same."""

    def __post_init__(self) -> None:
        require(self.name != "", "camera.name", self.name, "give the camera a name")
        require_positive(f"camera {self.name}", height=self.height, width=self.width)
        require(min(self.top, self.left) >= 0, f"camera {self.name}", (self.top, self.left), "corners must be >= 0")
        for name in ("in_data", "on_robot"):
            orientation = getattr(self, name)
            require(orientation in FLIPS, f"camera {self.name}.{name}", orientation, f"use one of {tuple(FLIPS)}")


@dataclass(frozen=True)
class CameraLayout:
    """How the cameras, each resized to its rectangle, join into one canvas (pixels, H x W)."""

    cameras: tuple[Camera, ...]

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras]
        require_unique("cameras", names)
        size = (self.height, self.width)
        require(self.height % 16 == self.width % 16 == 0, "cameras canvas", size,
                "height and width must be multiples of 16")  # fmt: skip
        covered = sum(camera.height * camera.width for camera in self.cameras)
        apart = all(_apart(a, b) for i, a in enumerate(self.cameras) for b in self.cameras[i + 1 :])
        require(apart and covered == self.height * self.width, "cameras", names,
                f"rectangles must tile their canvas {size} without gaps")  # fmt: skip

    @property
    def height(self) -> int:
        return max(camera.top + camera.height for camera in self.cameras)

    @property
    def width(self) -> int:
        return max(camera.left + camera.width for camera in self.cameras)


def _apart(a: Camera, b: Camera) -> bool:
    """Whether two camera rectangles share no pixel."""
    beside = a.left + a.width <= b.left or b.left + b.width <= a.left
    return beside or a.top + a.height <= b.top or b.top + b.height <= a.top


@dataclass(frozen=True)
class Dimension:
    """One number of the state or of an action."""

    name: str
    unit: str
    delta: bool = False
    """Actions only: a change, which stands still at 0, not a target, which stands still when it is repeated."""

    def __post_init__(self) -> None:
        require(self.name != "", "dimension.name", self.name, "give the dimension a name")
        require(self.unit in UNITS, f"dimension {self.name}.unit", self.unit, f"use one of {UNITS}")


@dataclass(frozen=True)
class GripperRule:
    """How a gripper's values in the data become commands of the robot. All numbers are in units before normalising."""

    dimension: str
    """Name of the action dimension that commands the gripper."""
    data_open: float
    data_closed: float
    robot_open: float
    robot_closed: float
    two_valued: bool = False
    """The robot takes open or closed and nothing between: the threshold lies half way. Else the rule is linear."""

    def __post_init__(self) -> None:
        for where, ends in (
            ("data", (self.data_open, self.data_closed)),
            ("robot", (self.robot_open, self.robot_closed)),
        ):
            apart = all(map(math.isfinite, ends)) and ends[0] != ends[1]
            require(apart, f"gripper.{where}_open, {where}_closed", ends, "give two different finite numbers")

    @property
    def to_openness(self) -> tuple[float, float]:
        """(scale, shift) from data values to openness: 1 open, 0 closed."""
        return _line(self.data_closed, self.data_open, 0.0, 1.0)

    @property
    def from_sign(self) -> tuple[float, float]:
        """(scale, shift) from -1 open, +1 closed to the robot's values."""
        return _line(-1.0, 1.0, self.robot_open, self.robot_closed)

    @property
    def linear(self) -> tuple[float, float]:
        """(scale, shift) from data values to the robot's, for a rule that is not two-valued."""
        return _line(self.data_closed, self.data_open, self.robot_closed, self.robot_open)

    def to_robot(self, values: FloatArray) -> FloatArray:
        """Gripper values as in the data (any shape) -> commands of the robot; half way is half way."""
        if not self.two_valued:
            return _apply(self.linear, values)
        return _apply(self.from_sign, np.sign(1 - 2 * _apply(self.to_openness, values)))

    def to_data(self, values: FloatArray) -> FloatArray:
        """The inverse; of a two-valued rule the nearer end, closed where a value lies half way."""
        if not self.two_valued:
            return _apply(_line(self.robot_closed, self.robot_open, self.data_closed, self.data_open), values)
        sign = _apply(_line(self.robot_open, self.robot_closed, -1.0, 1.0), values)
        return np.where(sign < 0, self.data_open, self.data_closed).astype(sign.dtype)

    def __str__(self) -> str:
        """'g becomes sign(-(2g - 1)): -1 open, +1 close'."""
        scale, shift = self.to_openness if self.two_valued else self.linear
        formula = f"sign(-({2 * scale:g}g - {1 - 2 * shift:g}))" if self.two_valued else f"{scale:g}g {shift:+g}"
        return f"g becomes {formula}: {self.robot_open:+g} open, {self.robot_closed:+g} close"


def _line(x0: float, x1: float, y0: float, y1: float) -> tuple[float, float]:
    """(scale, shift) of the line through two points."""
    scale = (y1 - y0) / (x1 - x0)
    return scale, y0 - scale * x0


def _apply(line: tuple[float, float], values: FloatArray) -> FloatArray:
    applied: FloatArray = values * line[0] + line[1]
    return applied


@dataclass(frozen=True)
class NormalizationConfig:
    """Modes of the state and action normalisers: 'min/max', 'q01/q99', 'z-score', or constants such as '-1/1'."""

    state: str = "min/max"
    action: str = "min/max"
    clamp: float = 5.0

    def __post_init__(self) -> None:
        require_positive("normalization", clamp=self.clamp)
        for name, mode in (("state", self.state), ("action", self.action)):
            require(mode in NORMALIZATION_MODES or constant_range(mode) is not None, f"normalization.{name}", mode,
                    f"use one of {NORMALIZATION_MODES} or two rising numbers such as '-1/1'")  # fmt: skip


def constant_range(mode: str) -> tuple[float, float] | None:
    """The two numbers of a mode such as '-1/1'; None for any other mode."""
    try:
        low, high = (float(part) for part in mode.split("/"))
    except ValueError:
        return None
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None


@dataclass(frozen=True)
class RobotConfig:
    """A robot, as its data set and its live interface show it."""

    name: str
    cameras: tuple[Camera, ...]
    state: tuple[Dimension, ...]
    action: tuple[Dimension, ...]
    control_hz: float
    """Actions a second."""
    gripper: GripperRule | None = None
    """None: actions reach the robot in the units of the data."""
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    state_key: str = "observation.state"
    """Column of a LeRobot data set that holds the state."""
    state_keys: tuple[str, ...] = ()
    """Where the state lies in several columns: their names, in the order in which they are joined. Empty: `state_key`
    alone."""
    action_key: str = "action"
    """Column of a LeRobot data set that holds the actions."""
    action_keys: tuple[str, ...] = ()
    """As `state_keys`, of the actions."""
    prompt_template: str | None = None
    """Sentence around an instruction, with {task} in it once. None: that of the policy's text encoder."""
    notes: str = ""
    """For people."""

    def __post_init__(self) -> None:
        require(self.name != "", "robot.name", self.name, "give the robot a name")
        require_positive("robot", control_hz=self.control_hz)
        for owner, dimensions in (("robot.state", self.state), ("robot.action", self.action)):
            require_unique(owner, [dimension.name for dimension in dimensions])
        deltas = [dimension.name for dimension in self.state if dimension.delta]
        require(not deltas, "robot.state deltas", deltas, "only actions can be deltas")
        names = [dimension.name for dimension in self.action]
        require(self.gripper is None or self.gripper.dimension in names, "robot.gripper.dimension",
                self.gripper and self.gripper.dimension, f"name one of the actions {names}")  # fmt: skip
        for owner, keys in (("robot.state_keys", self.state_keys), ("robot.action_keys", self.action_keys)):
            if keys:
                require_unique(owner, keys)
        CameraLayout(self.cameras)  # its checks

    @cached_property
    def layout(self) -> CameraLayout:
        """The cameras on their canvas."""
        return CameraLayout(self.cameras)

    @property
    def state_columns(self) -> tuple[str, ...]:
        """Columns of a LeRobot data set that make the state, in order."""
        return self.state_keys or (self.state_key,)

    @property
    def action_columns(self) -> tuple[str, ...]:
        """Columns of a LeRobot data set that make the actions, in order."""
        return self.action_keys or (self.action_key,)

    @property
    def gripper_column(self) -> int | None:
        """Place of the gripper's command in an action; None without a gripper."""
        names = [dimension.name for dimension in self.action]
        return None if self.gripper is None else names.index(self.gripper.dimension)

    @default_arithmetic
    def to_robot(self, actions: FloatArray) -> FloatArray:
        """Actions [..., A] as in the data -> the robot's: a copy, its gripper's column by the rule."""
        return self._converted(actions, GripperRule.to_robot)

    @default_arithmetic
    def to_data(self, actions: FloatArray) -> FloatArray:
        """The inverse of `to_robot`; see `GripperRule.to_data`."""
        return self._converted(actions, GripperRule.to_data)

    def _converted(
        self, actions: FloatArray, convert: typing.Callable[[GripperRule, FloatArray], FloatArray]
    ) -> FloatArray:
        made: FloatArray = actions.astype(np.result_type(actions, np.float32))
        if self.gripper is not None:
            column = self.gripper_column
            made[..., column] = convert(self.gripper, made[..., column])
        return made
