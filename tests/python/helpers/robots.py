# SPDX-License-Identifier: Apache-2.0
"""Configurations for other robots than a preset's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightwam.config import Dimension, LightWAMConfig


def with_robot(config: LightWAMConfig, **changes: Any) -> LightWAMConfig:
    """The configuration with fields of its robot replaced."""
    return config.with_robot(replace(config.robot, **changes))


def with_square_cameras(config: LightWAMConfig, side: int) -> LightWAMConfig:
    """Every camera `side` x `side` pixels, from left to right."""
    cameras = enumerate(config.cameras.cameras)
    square = {"top": 0, "height": side, "width": side}
    return with_robot(config, cameras=tuple(replace(camera, left=i * side, **square) for i, camera in cameras))


def numbered(width: int) -> tuple[Dimension, ...]:
    """Dimensions without meaning."""
    return tuple(Dimension(f"number_{i}", "1") for i in range(width))


def without_gripper(config: LightWAMConfig) -> LightWAMConfig:
    """Actions reach the robot in the units of the data."""
    return with_robot(config, gripper=None)
