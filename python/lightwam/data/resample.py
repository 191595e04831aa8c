# SPDX-License-Identifier: Apache-2.0
"""A data set at the robot's control rate, where its rows come at another one.

Row j of the new episode lies at j / control_hz seconds. Where that is a row of the data (an integer stride), the row is
taken; between two rows, numbers are interpolated. What cannot lie between two values is held: the gripper's command,
and every column that has two or three values only. An angle that jumps by half a turn or more is held, too. A delta is
what is left to move until the next row, so deltas are summed over the time of a new row. Frames are the nearest ones.

Legend: n rows of an episode, m new ones, A action width, P state width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from lightwam.arithmetic import default_arithmetic
from lightwam.config import RobotConfig
from lightwam.config.robot import Dimension
from lightwam.data.dataset import Dataset, Episode, FrameSpan, without_totals
from lightwam.errors import ConfigError, DataError

Resampling = Literal["refuse", "stride", "interpolate"]
"""`refuse`: another rate is an error. `stride`: only if rows can be left out. `interpolate`: any rate."""
Floats = npt.NDArray[np.float32]
_HALF_TURN = {"rad": np.pi, "deg": 180.0}


@default_arithmetic
def resampled(dataset: Dataset, robot: RobotConfig, how: Resampling) -> Dataset:
    """The data set at `robot.control_hz`; itself where it has that rate, or does not tell its own.

    Raises:
        DataError: with `refuse` nothing (`Dataset.check_rate` does); with the others, a rate that cannot be made.
        ConfigError: an unknown `how`.
    """
    if how not in get_args(Resampling):
        raise ConfigError(f"resampling is {how!r}: use one of {', '.join(get_args(Resampling))}")
    if how == "refuse" or dataset.fps is None:
        return dataset
    rate = dataset.fps * dataset.action_substeps
    if abs(rate - robot.control_hz) <= 0.01 * robot.control_hz:
        return dataset
    if (len(robot.state), len(robot.action)) != (dataset.state.shape[1], dataset.action.shape[2]):
        return dataset  # `fitted` says which width is wrong
    step = rate / robot.control_hz
    if how == "stride" and (step < 1 or abs(step - round(step)) > 0.01 * step):
        raise DataError(
            f"data set {dataset.root} has actions at {rate:g} Hz, which is no multiple of the robot's "
            f"{robot.control_hz:g} Hz: use --resample interpolate, or another control_hz"
        )
    if dataset.action_substeps > 1:
        raise DataError(
            f"data set {dataset.root} has {dataset.action_substeps} actions a row: only sets with one are resampled; "
            f"set control_hz to {rate:g}"
        )
    return _Resampler(dataset, robot, round(step) if abs(step - round(step)) <= 0.01 * step else step).made()


class _Resampler:
    def __init__(self, dataset: Dataset, robot: RobotConfig, step: float) -> None:
        self.dataset, self.robot, self.step = dataset, robot, step
        action_NA = dataset.action[:, 0]
        gripper = np.arange(action_NA.shape[1]) == (-1 if robot.gripper_column is None else robot.gripper_column)
        self.held_A = gripper | _discrete(action_NA)
        self.held_P = _discrete(dataset.state)
        self.delta_A = np.array([dimension.delta for dimension in robot.action]) & ~self.held_A

    def made(self) -> Dataset:
        states, actions, episodes, nearest, start = [], [], [], [], 0
        for episode in self.dataset.episodes:
            span = slice(episode.start, episode.stop)
            places = np.arange(int((episode.length - 1) / self.step + 1e-6) + 1) * self.step
            states.append(_between(self.dataset.state[span], places, self.held_P, self.robot.state))
            actions.append(self._actions(self.dataset.action[span, 0], places))
            picks = np.minimum(np.floor(places + 0.5).astype(np.int64), episode.length - 1)
            episodes.append(self._episode(episode, start, picks))
            nearest.append(episode.start + picks)
            start += len(places)
        rows = np.concatenate(nearest)
        return replace(
            self.dataset,
            fps=self.robot.control_hz,
            state=np.concatenate(states),
            action=np.concatenate(actions)[:, None],
            columns=self.dataset.columns.take(rows),
            episodes=tuple(episodes),
            about=without_totals(self.dataset.about),
        )

    def _actions(self, action_nA: Floats, places: npt.NDArray[np.floating]) -> Floats:
        made = _between(action_nA, places, self.held_A, self.robot.action)
        if self.delta_A.any():  # what was moved until a time, at the ends of the new rows
            moved = np.cumsum(np.vstack([np.zeros(action_nA.shape[1]), action_nA.astype(np.float64)]), axis=0)
            ends = np.minimum(np.append(places, places[-1] + self.step), len(action_nA))
            for column in np.flatnonzero(self.delta_A):
                made[:, column] = np.diff(np.interp(ends, np.arange(len(moved)), moved[:, column]))
        return made

    def _episode(self, episode: Episode, start: int, picks: npt.NDArray[np.int64]) -> Episode:
        own = episode.action_rows
        action_rows = None if own is None else max(1, int(np.searchsorted(picks, own)))
        videos = {name: _picked(span, picks, episode.length) for name, span in episode.videos.items()}
        return replace(episode, start=start, stop=start + len(picks), videos=videos, action_rows=action_rows)


def _picked(span: FrameSpan, picks: npt.NDArray[np.int64], length: int) -> FrameSpan:
    """These of the span's frames. A span that has too few or too many keeps its count: `Dataset.check` refuses it."""
    if span.count != length:
        return span
    old = np.arange(length) if span.picks is None else np.asarray(span.picks)
    return replace(span, count=len(picks), picks=tuple(old[picks].tolist()))


def _discrete(values_ND: Floats) -> npt.NDArray[np.bool_]:
    """Columns that have two or three values: they say which, not how much."""
    return np.array([1 < len(np.unique(column)) <= 3 for column in values_ND.T])


def _between(
    values_nD: Floats,
    places: npt.NDArray[np.floating],
    held_D: npt.NDArray[np.bool_],
    dimensions: tuple[Dimension, ...],
) -> Floats:
    """Values at these places (0 is the first row): the row itself, between two of them, or the last one before."""
    before = np.minimum(np.floor(places + 1e-6).astype(np.int64), len(values_nD) - 1)
    after = np.minimum(before + 1, len(values_nD) - 1)
    part = np.clip(places - before, 0.0, 1.0)[:, None]
    low, high = values_nD[before].astype(np.float64), values_nD[after].astype(np.float64)
    turn_D = np.array([_HALF_TURN.get(dimension.unit, np.inf) for dimension in dimensions])
    held = held_D | (np.abs(high - low) >= turn_D)
    placed: Floats = np.where(held, low, low + part * (high - low)).astype(np.float32)
    return placed
