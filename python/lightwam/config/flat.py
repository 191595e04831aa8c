# SPDX-License-Identifier: Apache-2.0
"""Configurations as earlier versions wrote them: the robot's numbers flat among the others, two kinds of gripper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from lightwam.config.checks import LARGEST_SIZE, require, require_positive
from lightwam.config.robot import FLIPS, Camera, Dimension, GripperRule, NormalizationConfig, RobotConfig
from lightwam.config.serialize import dataclass_from_dict, dataclass_to_dict

_ORIENTATIONS = {flips: orientation for orientation, flips in FLIPS.items()}


@dataclass(frozen=True)
class _Camera:
    name: str
    top: int
    left: int
    height: int
    width: int
    flip_vertical: bool = False
    flip_horizontal: bool = False


@dataclass(frozen=True)
class _Layout:
    height: int
    width: int
    cameras: tuple[_Camera, ...]


@dataclass(frozen=True)
class _Flat:
    cameras: _Layout
    state_dim: int
    action_dim: int
    gripper: Literal["libero", "none"] = "none"
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)

    def __post_init__(self) -> None:
        require_positive("config", state_dim=self.state_dim, action_dim=self.action_dim)
        for name, width in (("state_dim", self.state_dim), ("action_dim", self.action_dim)):
            require(width <= LARGEST_SIZE, f"config.{name}", width, f"use at most {LARGEST_SIZE}")


def from_flat(mapping: Mapping[str, Any], known: Iterable[RobotConfig]) -> dict[str, Any]:
    """The document of today for a flat one. Raises `ConfigError`.

    A robot of `known` whose widths and gripper are those of the document gives the names that it lacks.
    """
    document = {"replan_steps" if name == "replan" else name: value for name, value in mapping.items()}
    own = {entry.name: document.pop(entry.name) for entry in fields(_Flat) if entry.name in document}
    flat = dataclass_from_dict(_Flat, own, "config")
    layout = {(len(robot.state), len(robot.action), robot.gripper is not None): robot for robot in known}
    robot = layout.get((flat.state_dim, flat.action_dim, flat.gripper == "libero")) or _unnamed(flat)
    robot = replace(robot, cameras=tuple(map(_camera, flat.cameras.cameras)), normalization=flat.normalization)
    return {**document, "robot": dataclass_to_dict(robot)}


def _camera(old: _Camera) -> Camera:
    orientation = _ORIENTATIONS[old.flip_vertical, old.flip_horizontal]
    return Camera(old.name, old.top, old.left, old.height, old.width, orientation, orientation)


def _unnamed(flat: _Flat) -> RobotConfig:
    """Dimensions by number; LIBERO's rule took the last action for the gripper and the others for deltas."""
    is_libero = flat.gripper == "libero"
    action = [Dimension(f"action_{i}", "1", delta=is_libero) for i in range(flat.action_dim)]
    if is_libero:
        action[-1] = Dimension("gripper", "1")
    return RobotConfig(
        name="unnamed",
        cameras=tuple(map(_camera, flat.cameras.cameras)),
        state=tuple(Dimension(f"state_{i}", "1") for i in range(flat.state_dim)),
        action=tuple(action),
        control_hz=20.0,
        gripper=GripperRule("gripper", 1.0, 0.0, -1.0, 1.0, two_valued=True) if is_libero else None,
    )
