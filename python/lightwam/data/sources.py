# SPDX-License-Identifier: Apache-2.0
"""Opening data sets of any format for a policy: which episodes, which tasks, with what share of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightwam.config import LightWAMConfig, RobotConfig
from lightwam.data.dataset import Dataset
from lightwam.data.hdf5 import episode_files
from lightwam.data.lerobot import open_dataset as open_lerobot
from lightwam.data.real_robot import PATTERN as REAL_ROBOT_FILES
from lightwam.data.real_robot import open_real_robot
from lightwam.data.robotwin import PATTERN as ROBOTWIN_FILES
from lightwam.data.robotwin import open_robotwin
from lightwam.errors import DataError


@dataclass(frozen=True)
class DataSource:
    """A data set, and what of it is used."""

    folder: Path
    episodes: tuple[int, ...] | None = None
    """Numbers of the episodes, as the data set counts them; None: all."""
    tasks: tuple[str, ...] | None = None
    """Instructions of the episodes, as the data set spells them; None: all."""
    share: float | None = None
    """Part of the samples relative to the other sources' shares; None: every row counts the same
    (`lightwam.data.mixture`)."""


def open_dataset(root: Path, robot: RobotConfig | None = None) -> Dataset:
    """Read a data set of any known format: LeRobot, real-robot HDF5, RoboTwin. Raises `DataError`.

    `robot` names the columns and cameras of the data set, and the cameras take its names; None: they have LeRobot's
    usual names, and cameras keep theirs. `fitted` compares the rest.
    """
    dataset = _open(root, robot)
    if robot is None:
        return dataset
    names = {c.data_name: c.name for c in robot.cameras if c.data_name is not None and c.data_name != c.name}
    return dataset.renamed(names)


def _open(root: Path, robot: RobotConfig | None) -> Dataset:
    if (root / "meta" / "info.json").exists():
        return open_lerobot(root) if robot is None else open_lerobot(root, robot.state_key, robot.action_key)
    if episode_files(root, REAL_ROBOT_FILES):
        return open_real_robot(root)
    if episode_files(root / "data", ROBOTWIN_FILES) or episode_files(root, ROBOTWIN_FILES):
        return open_robotwin(root)
    if not root.exists():
        raise DataError(f"data set {root} is missing: name another folder")
    raise DataError(
        f"data set {root} is of no known format: it has neither meta/info.json (LeRobot) nor episode_N.hdf5 "
        "(real robot) nor data/episodeN.hdf5 (RoboTwin); name the folder that holds them"
    )


def open_source(source: DataSource, robot: RobotConfig) -> Dataset:
    """The chosen episodes of a source, its cameras under the robot's names. Raises `DataError`: it does not fit."""
    return fitted(select(open_dataset(source.folder, robot), source.episodes, source.tasks), robot)


def open_datasets(folders: Sequence[Path], config: LightWAMConfig, max_episodes: int | None = None) -> list[Dataset]:
    """Data sets that fit the configuration's robot, of each the first `max_episodes`. Raises `DataError`."""
    if not folders:
        raise DataError("no data set is given: name at least one folder after --data")
    return [
        fitted(first_episodes(open_dataset(folder, config.robot), max_episodes), config.robot) for folder in folders
    ]


def fitted(dataset: Dataset, robot: RobotConfig) -> Dataset:
    """The data set itself. Raises `DataError`: its cameras, widths, rate or gripper commands are not the robot's."""
    dataset.check(tuple(camera.name for camera in robot.cameras), len(robot.state), len(robot.action))
    dataset.check_rate(robot.control_hz)
    _check_gripper(dataset, robot)
    return dataset


def _check_gripper(dataset: Dataset, robot: RobotConfig) -> None:
    """A gripper of another convention (such as -1 open, 1 closed for 1 open, 0 closed) trains well and acts wrongly."""
    if (rule := robot.gripper) is None:
        return
    values = dataset.action[..., robot.gripper_column]
    low, high = sorted((rule.data_open, rule.data_closed))
    margin = 0.1 * (high - low)
    if values.min() < low - margin or values.max() > high + margin:
        raise DataError(
            f"data set {dataset.root} has gripper commands {rule.dimension!r} from {values.min():g} to "
            f"{values.max():g}, the robot's file says {rule.data_open:g} open and {rule.data_closed:g} closed: set its "
            "gripper's data_open and data_closed to what the data hold"
        )


def first_episodes(dataset: Dataset, count: int | None) -> Dataset:
    """The data set's first `count` episodes (all of them for None)."""
    if count is None or count >= len(dataset.episodes):
        return dataset
    if count < 1:
        raise DataError(f"episode count is {count}: use at least 1")
    return dataset.take(range(count))


def select(dataset: Dataset, episodes: Sequence[int] | None = None, tasks: Sequence[str] | None = None) -> Dataset:
    """The episodes of these numbers and of these tasks, in the data set's order. Raises `DataError`: there is none."""
    have = {episode.index for episode in dataset.episodes}
    if missing := sorted(set(episodes or ()) - have):
        raise DataError(f"data set {dataset.root} has no episodes {missing}: it has {len(have)}, up to {max(have)}")
    known = {episode.task for episode in dataset.episodes}
    if unknown := sorted(set(tasks or ()) - known):
        raise DataError(f"data set {dataset.root} has no task {unknown}: it has {sorted(known)[:10]}")
    chosen = [
        position
        for position, episode in enumerate(dataset.episodes)
        if (episodes is None or episode.index in episodes) and (tasks is None or episode.task in tasks)
    ]
    if not chosen:
        raise DataError(f"no episode of data set {dataset.root} is chosen: widen the episodes or tasks")
    return dataset if len(chosen) == len(dataset.episodes) else dataset.take(chosen)
