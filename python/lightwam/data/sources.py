# SPDX-License-Identifier: Apache-2.0
"""Opening data sets of any format for a policy: which episodes, which tasks, with what share of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightwam.config import LightWAMConfig, RobotConfig
from lightwam.data.dataset import Dataset, Report, refuse
from lightwam.data.hdf5 import episode_files
from lightwam.data.lerobot import open_dataset as open_lerobot
from lightwam.data.real_robot import PATTERN as REAL_ROBOT_FILES
from lightwam.data.real_robot import open_real_robot
from lightwam.data.resample import Resampling, resampled
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


def open_dataset(root: Path, robot: RobotConfig | None = None, report: Report = refuse) -> Dataset:
    """Read a data set of any known format: LeRobot, real-robot HDF5, RoboTwin. Raises `DataError`.

    `robot` names the columns and cameras of the data set, and the cameras take its names; None: they have LeRobot's
    usual names, and cameras keep theirs. `fitted` compares the rest. `report`: what is done about rows that are wrong.
    """
    dataset = _open(root, robot, report)
    if robot is None:
        return dataset
    names = {c.data_name: c.name for c in robot.cameras if c.data_name is not None and c.data_name != c.name}
    return dataset.renamed(names)


def _open(root: Path, robot: RobotConfig | None, report: Report) -> Dataset:
    if (root / "meta" / "info.json").exists():
        if robot is None:
            return open_lerobot(root, report=report)
        return open_lerobot(root, robot.state_columns, robot.action_columns, report)
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


def open_source(source: DataSource, robot: RobotConfig, resample: Resampling = "refuse") -> Dataset:
    """The chosen episodes of a source, its cameras under the robot's names. Raises `DataError`: it does not fit."""
    chosen = select(open_dataset(source.folder, robot), source.episodes, source.tasks)
    return fitted(resampled(chosen, robot, resample), robot)


def open_datasets(
    folders: Sequence[Path],
    config: LightWAMConfig,
    max_episodes: int | None = None,
    resample: Resampling = "refuse",
) -> list[Dataset]:
    """Data sets that fit the configuration's robot, of each the first `max_episodes`. Raises `DataError`.

    `resample`: what is done about a data set of another rate (`lightwam.data.resample`).
    """
    if not folders:
        raise DataError("no data set is given: name at least one folder after --data")
    robot, opened = config.robot, []
    for folder in folders:
        dataset = first_episodes(open_dataset(folder, robot), max_episodes)
        opened.append(fitted(resampled(dataset, robot, resample), robot))
    return opened


def fitted(dataset: Dataset, robot: RobotConfig, report: Report = refuse) -> Dataset:
    """The data set itself. Reports a `DataError`: its cameras, widths, rate or gripper commands are not the robot's."""
    dataset.check(tuple(camera.name for camera in robot.cameras), len(robot.state), len(robot.action), report)
    try:
        dataset.check_rate(robot.control_hz)
    except DataError as error:
        report(error)
    _check_gripper(dataset, robot, report)
    return dataset


def _check_gripper(dataset: Dataset, robot: RobotConfig, report: Report) -> None:
    """A gripper of another convention (such as -1 open, 1 closed for 1 open, 0 closed) trains well and acts wrongly."""
    rule, column = robot.gripper, robot.gripper_column
    if rule is None or column is None or column >= dataset.action.shape[-1]:
        return
    values = dataset.action[..., column]
    low, high = sorted((rule.data_open, rule.data_closed))
    margin = 0.1 * (high - low)
    if np.nanmin(values) < low - margin or np.nanmax(values) > high + margin:
        report(
            DataError(
                f"data set {dataset.root} has gripper commands {rule.dimension!r} from {np.nanmin(values):g} to "
                f"{np.nanmax(values):g}, the robot's file says {rule.data_open:g} open and {rule.data_closed:g} "
                "closed: set its gripper's data_open and data_closed to what the data hold"
            )
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
