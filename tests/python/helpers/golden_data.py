# SPDX-License-Identifier: Apache-2.0
"""The tiny data sets of tests/data/golden, and what the published loader made of them."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.data.dataset import Dataset
from lightwam.data.sources import fitted, open_dataset

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
LEROBOT, HDF5 = GOLDEN / "data_lerobot", GOLDEN / "data_hdf5"


@functools.cache
def tensors(folder: Path) -> dict[str, Tensor]:
    """`<set>.<row>.<what>` of a folder: leave it as it is."""
    return load_file(folder / "samples.safetensors")


@functools.cache
def facts(folder: Path) -> dict[str, Any]:
    """samples.json."""
    return json.loads((folder / "samples.json").read_text())


@functools.cache
def statistics(folder: Path, name: str) -> dict[str, Any]:
    """What the published code measured."""
    return json.loads((folder / f"{name}_dataset_stats.json").read_text())


def libero(size: int = 32, vertical: bool = False, mode: str = "min/max", text_width: int = 4096,
           **video: int) -> LightWAMConfig:  # fmt: skip
    """The LIBERO recipe with square cameras `image`, `wrist_image` of `size` pixels, which lie upright."""
    config = LightWAMConfig.libero()
    names = dict(zip(("agentview", "wrist"), ("image", "wrist_image"), strict=True))
    cameras = tuple(
        replace(camera, data_name=names[camera.name], in_data="upright", height=size, width=size,
                top=i * size if vertical else 0, left=0 if vertical else i * size)
        for i, camera in enumerate(config.robot.cameras)
    )  # fmt: skip
    normalization = replace(config.robot.normalization, state=mode, action=mode)
    robot = replace(config.robot, cameras=cameras, normalization=normalization)
    return replace(
        config,
        robot=robot,
        video=replace(config.video, **video),
        text=replace(config.text, width=text_width),
        video_dit=replace(config.video_dit, text_dim=text_width),
    )


def robotwin() -> LightWAMConfig:
    """The three-camera recipe at the set's nominal 30 Hz."""
    config = LightWAMConfig.robotwin()
    names = {"head": "cam_high", "left": "cam_left_wrist", "right": "cam_right_wrist"}
    cameras = tuple(replace(camera, data_name=names[camera.name]) for camera in config.robot.cameras)
    return replace(config, robot=replace(config.robot, cameras=cameras, control_hz=30.0))


@functools.cache
def dataset(folder: Path, name: str) -> Dataset:
    """One of the sets, its cameras under the robot's names."""
    config = libero() if name == "libero_tiny" else robotwin()
    return fitted(open_dataset(folder / name, config.robot), config.robot)
