# SPDX-License-Identifier: Apache-2.0
"""`lightwam data show`: pictures of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightwam.cli.parse import Positional


@dataclass(frozen=True)
class ShowArgs:
    """Draw a data set: frames of an episode, histograms, and actions against the states that follow."""

    data: Positional[Path]
    """Folder of a data set: LeRobot, real-robot HDF5, RoboTwin."""
    out: Path
    """Folder for frames.png, numbers.png and motion.png; older ones are replaced."""
    config: str | None = None
    """Preset (libero, robotwin, nano) or JSON file: a configuration, or a robot on top of one. It gives the canvas and
    the names."""
    episode: int | None = None
    """Number of the episode that is shown (default: the first)."""
    frames: int = 8
    """How many of its frames."""


def main(arguments: ShowArgs) -> int:
    """Draw the pictures. Raises `ConfigError`, `DataError`."""
    from lightwam.config import read_config
    from lightwam.data.show import FRAMES, MOTION, NUMBERS, show_dataset
    from lightwam.data.sources import open_dataset
    from lightwam.errors import ConfigError
    from lightwam.files import check_output

    ours = {FRAMES, NUMBERS, MOTION}
    check_output(
        arguments.out, "pictures", ConfigError, lambda path, _: {entry.name for entry in path.iterdir()} <= ours,
        [arguments.data], folder=True,
    )  # fmt: skip
    config = None if arguments.config is None else read_config(arguments.config)
    dataset = open_dataset(arguments.data, None if config is None else config.robot)
    if config is not None:
        cameras = tuple(camera.name for camera in config.cameras.cameras)
        dataset.check(cameras, config.state_dim, config.action_dim)
    for path in show_dataset(dataset, arguments.out, config, arguments.episode, arguments.frames):
        print(path)
    return 0
