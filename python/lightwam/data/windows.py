# SPDX-License-Identifier: Apache-2.0
"""Training windows: the states, the action chunk and the future frames that belong to a row.

A window starts at a row and spans `VideoConfig.window` control steps. Past an episode's end it repeats the last state,
frame and action, with pad flags; padded deltas are 0 before normalising: the robot stands still. Source:
docs/reference/light-wam.md, sections 5 and 6; docs/reference/data.md.

Legend: N rows, B some of them, H horizon, W states of a window, F frames, S control steps a row, A action width,
P state width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightwam.arithmetic import default_arithmetic
from lightwam.config import LightWAMConfig
from lightwam.data.dataset import Dataset, Episode, Rows
from lightwam.data.normalize import measure
from lightwam.errors import DataError

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Windows:
    """Windows of N rows. Actions are in data-set units, not normalised."""

    action_NHA: Floats
    action_is_pad_NH: Flags
    frame_rows_NF: Rows
    image_is_pad_NF: Flags


def frame_stride(config: LightWAMConfig, action_substeps: int) -> int:
    """Rows between two frames of a window. Raises `DataError` when the data set's rows lie too far apart."""
    stride = config.video.stride
    if stride % action_substeps:
        raise DataError(
            f"data set has a frame every {action_substeps} control steps: the configuration's video.stride {stride} "
            "must be a multiple of it"
        )
    return stride // action_substeps


class WindowIndex:
    """Where the windows of a data set lie: which rows may start one, and which steps each holds."""

    def __init__(
        self,
        dataset: Dataset,
        config: LightWAMConfig,
        sample_stride: int = 1,
        whole: bool | None = None,
        zero_padded_deltas: bool = True,
    ) -> None:
        """
        Args:
            dataset: what the windows are of.
            config: horizon, frames and their stride, which action dimensions are deltas.
            sample_stride: use every so many-th control step.
            whole: only windows that lie wholly inside their episode. None: as the published loader of the format does.
            zero_padded_deltas: padded deltas are 0. False: they repeat, as all other dimensions do.

        Raises:
            DataError: a stride that does not fit, or `whole` and no window that lies inside an episode.
        """
        if sample_stride < 1:
            raise DataError(f"sample_stride is {sample_stride}: use at least 1")
        frame_stride(config, dataset.action_substeps)
        self.dataset, self.sample_stride = dataset, sample_stride
        self.horizon, self.states = config.horizon, config.video.window
        self.frame_steps = np.arange(config.video.num_frames) * config.video.stride
        self.is_delta_A = np.array([dimension.delta and zero_padded_deltas for dimension in config.robot.action])
        starts, stops, action_stops = ([e.start for e in dataset.episodes], [e.stop for e in dataset.episodes],
                                       [e.start + _own_actions(e) for e in dataset.episodes])  # fmt: skip
        lengths = [episode.length for episode in dataset.episodes]
        self._start_N, self._stop_N = np.repeat(starts, lengths), np.repeat(stops, lengths)
        self._action_stop_N = np.repeat(action_stops, lengths)
        self.rows = np.arange(len(dataset.state))
        """The rows at which a window starts, in order: row number of each sample."""
        if dataset.whole_windows if whole is None else whole:
            self.rows = self._whole_rows()

    def _whole_rows(self) -> Rows:
        substeps, rows = self.dataset.action_substeps, np.arange(len(self.dataset.state))
        last_state = rows + self.sample_stride * (self.states - 1) // substeps
        last_action = rows * substeps + self.sample_stride * (self.horizon - 1)
        chosen = rows[(last_state < self._stop_N) & (last_action < self._action_stop_N * substeps)]
        if len(chosen) == 0:
            raise DataError(
                f"no episode of data set {self.dataset.root} is as long as a window ({self.states} steps, stride "
                f"{self.sample_stride}): record longer ones, or use windows that reach past the end (whole=False)"
            )
        return np.asarray(chosen, np.int64)

    def frame_rows(self, rows_B: Rows) -> tuple[Rows, Flags]:
        """Rows of the windows' frames [B, F], and which are past the end."""
        return self._rows_at(rows_B, self.frame_steps)

    def state_windows(self, rows_B: Rows) -> tuple[Floats, Flags]:
        """States of the windows [B, W, P], in data-set units, and which are past the end [B, W]."""
        rows_BW, is_pad = self._rows_at(rows_B, np.arange(self.states))
        return self.dataset.state[rows_BW], is_pad

    def windows(self, rows_B: Rows) -> Windows:
        """Actions and frames of the windows that start at these rows."""
        dataset, substeps = self.dataset, self.dataset.action_substeps
        wanted = rows_B[:, None] * substeps + self.sample_stride * np.arange(self.horizon)
        stop = self._action_stop_N[rows_B, None] * substeps
        action_is_pad = wanted >= stop
        action = dataset.action.reshape(-1, dataset.action.shape[2])[np.minimum(wanted, stop - 1)]
        action[action_is_pad[..., None] & self.is_delta_A] = 0.0
        frame_rows, image_is_pad = self.frame_rows(rows_B)
        return Windows(action, action_is_pad, frame_rows, image_is_pad)

    def _rows_at(self, rows_B: Rows, steps: Rows) -> tuple[Rows, Flags]:
        """Rows so many control steps after these [B, K], the episode's last at most, and which are past it."""
        wanted = rows_B[:, None] + self.sample_stride * steps // self.dataset.action_substeps
        stop = self._stop_N[rows_B, None]
        return np.minimum(wanted, stop - 1), wanted >= stop


def _own_actions(episode: Episode) -> int:
    return episode.length if episode.action_rows is None else episode.action_rows


@default_arithmetic
def build_windows(dataset: Dataset, config: LightWAMConfig) -> Windows:
    """The window of every row of `dataset`, each at most up to its episode's end."""
    index = WindowIndex(dataset, config, whole=False)
    return index.windows(index.rows)


@default_arithmetic
def measure_statistics(datasets: list[Dataset], config: LightWAMConfig) -> dict[str, Any]:
    """The content of a statistics file: over all rows of all data sets ('global'), and for each step of a window.

    `state|action` -> `default` -> `{global,stepwise}_{min,max,mean,std,q01,q99}`, `num_episodes`, `num_transition`.
    Made from tables only. Padded steps count in 'stepwise' as LIBERO's do. The published definition is
    `lightwam.data.published_statistics`.
    """
    state = np.concatenate([dataset.state for dataset in datasets])
    action = np.concatenate([dataset.action.reshape(-1, config.action_dim) for dataset in datasets])
    chunks = np.concatenate([build_windows(dataset, config).action_NHA for dataset in datasets])
    return {
        "state": {"default": {**measure(state, "global"), **measure(state[:, None], "stepwise")}},
        "action": {"default": {**measure(action, "global"), **measure(chunks, "stepwise")}},
        "num_episodes": sum(len(dataset.episodes) for dataset in datasets),
        "num_transition": len(action),
    }


@default_arithmetic
def lerobot_statistics(datasets: list[Dataset], config: LightWAMConfig) -> dict[str, Any]:
    """The content of LeRobot's meta/stats.json, of the state's and the action's columns alone, each row once.

    Column -> min, max, mean, std, count, q01, q10, q50, q90, q99. A state in several columns is under `state_key`.
    """
    robot = config.robot
    fields = {
        robot.state_key: np.concatenate([dataset.state for dataset in datasets]),
        robot.action_key: np.concatenate([dataset.action.reshape(-1, config.action_dim) for dataset in datasets]),
    }
    made: dict[str, Any] = {}
    for name, rows in fields.items():
        values = rows.astype(np.float64)
        parts = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
        parts |= {f"q{part:02d}": np.quantile(values, part / 100, axis=0) for part in (1, 10, 50, 90, 99)}
        made[name] = {**{key: value.tolist() for key, value in parts.items()}, "count": [len(values)]}
    return made


def split_episodes(dataset: Dataset, fraction: float, seed: int) -> tuple[list[Episode], list[Episode]]:
    """(training, held-out) episodes; of two or more, one at least is each (none is held out at 0)."""
    count = len(dataset.episodes)
    held_out = 0 if fraction <= 0 or count < 2 else min(count - 1, max(1, round(fraction * count)))
    chosen = set(np.random.default_rng(seed).permutation(count)[:held_out].tolist())
    training = [episode for i, episode in enumerate(dataset.episodes) if i not in chosen]
    return training, [dataset.episodes[i] for i in sorted(chosen)]


def published_split(dataset: Dataset, held_out: float) -> tuple[list[int], list[int]]:
    """(training, held-out) places of episodes, in the order in which the published loader numbers their rows.

    It shuffles the episodes with a fixed seed; LeRobot sets stay in that order, HDF5 sets are sorted again. With 0
    nothing is shuffled. `Dataset.take` makes the data set of either part. Raises `DataError`: no 0 <= held_out < 1.
    """
    if not 0 <= held_out < 1:
        raise DataError(f"held-out proportion is {held_out}: use 0 or more, and less than 1")
    count = len(dataset.episodes)
    if held_out == 0:
        return list(range(count)), []
    order = np.random.default_rng(42).permutation(count).tolist()
    cut = int(count * (1 - held_out))
    parts = order[:cut], order[cut:]
    return (sorted(parts[0]), sorted(parts[1])) if dataset.whole_windows else parts


def rows_of(episodes: list[Episode]) -> Rows:
    """All row numbers of these episodes, in order."""
    if not episodes:
        return np.zeros(0, np.int64)
    return np.concatenate([np.arange(episode.start, episode.stop) for episode in episodes])
