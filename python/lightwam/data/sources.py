# SPDX-License-Identifier: Apache-2.0
"""Opening data sets of any format for a policy: which episodes, which tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

import numpy as np

from lightwam.config import LightWAMConfig, RobotConfig
from lightwam.config.selection import Selection
from lightwam.data.dataset import Dataset, Report, refuse
from lightwam.data.hdf5 import episode_files
from lightwam.data.lerobot import open_dataset as open_lerobot
from lightwam.data.real_robot import PATTERN as REAL_ROBOT_FILES
from lightwam.data.real_robot import open_real_robot
from lightwam.data.resample import Resampling, resampled
from lightwam.data.robotwin import PATTERN as ROBOTWIN_FILES
from lightwam.data.robotwin import open_robotwin
from lightwam.errors import DataError

EVERYTHING = Selection()


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


def open_datasets(
    folders: Sequence[Path],
    config: LightWAMConfig,
    selection: Selection = EVERYTHING,
    resample: Resampling = "refuse",
    sample_stride: int = 1,
) -> list[Dataset]:
    """The chosen episodes of data sets that fit the configuration's robot. Raises `DataError`, `ConfigError`.

    `resample`: what is done about a data set of another rate (`lightwam.data.resample`). `sample_stride`: windows take
    every so many-th control step, so that the data come at that many times the robot's rate.
    """
    if not folders:
        raise DataError("no data set is given: name at least one folder after --data")
    robot = replace(config.robot, control_hz=config.robot.control_hz * sample_stride)
    chosen = select([open_dataset(folder, robot) for folder in folders], selection)
    return [fitted(resampled(dataset, robot, resample), robot) for dataset in chosen]


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


def select(datasets: Sequence[Dataset], selection: Selection) -> list[Dataset]:
    """The chosen episodes of each data set, in its own order.

    Raises:
        DataError: a number is not in its data set, a task is in none of them, or nothing of a data set is chosen.
        ConfigError: another number of lists than of data sets.
    """
    known = list(dict.fromkeys(episode.task for dataset in datasets for episode in dataset.episodes))
    for task in selection.tasks:
        if task not in known:
            near = get_close_matches(task, known, 3, 0.4) or known[:10]
            names = ", ".join(str(dataset.root) for dataset in datasets)
            raise DataError(f"no data set ({names}) has the task {task!r}: choose another, such as {near}")
    numbers = selection.numbers(len(datasets))
    return [_chosen(dataset, selection, ranges) for dataset, ranges in zip(datasets, numbers, strict=True)]


def _chosen(dataset: Dataset, selection: Selection, ranges: Sequence[range] | None) -> Dataset:
    have = {episode.index for episode in dataset.episodes}
    missing = (number for numbers in ranges or () for number in numbers if number not in have)
    if first := list(islice(missing, 6)):
        named = ", ".join(map(str, first[:5])) + (", ..." if len(first) > 5 else "")
        raise DataError(
            f"data set {dataset.root} has no episodes {named}: it has {len(have)}, {min(have)} to {max(have)}; change "
            "--episodes"
        )
    places = [
        place
        for place, episode in enumerate(dataset.episodes)
        if (ranges is None or any(episode.index in numbers for numbers in ranges))
        and (not selection.tasks or episode.task in selection.tasks)
    ][: selection.max_episodes]
    if not places:
        raise DataError(
            f"no episode of data set {dataset.root} is chosen: change --episodes or --tasks, or leave the set out"
        )
    return dataset if len(places) == len(dataset.episodes) else dataset.take(places)
