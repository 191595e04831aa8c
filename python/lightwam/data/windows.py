# SPDX-License-Identifier: Apache-2.0
"""Training windows: the action chunk and the future frames that belong to a row.

A window starts at a row and spans `VideoConfig.window` control steps. At an episode's end it repeats the last frame
and the last action, with pad flags; padded deltas are 0 before normalising: the robot stands still. Source:
docs/reference/light-wam.md, sections 5 and 6.

Legend: N rows, H horizon, F frames, S control steps a row, A action width, P state width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightwam.config import LightWAMConfig
from lightwam.data.dataset import Dataset, Episode
from lightwam.data.normalize import measure
from lightwam.errors import DataError


@dataclass(frozen=True)
class Windows:
    """One window for each row of a data set. Actions are in data-set units, not normalised."""

    action_NHA: npt.NDArray[np.float32]
    action_is_pad_NH: npt.NDArray[np.bool_]
    frame_rows_NF: npt.NDArray[np.int64]
    image_is_pad_NF: npt.NDArray[np.bool_]


def frame_stride(config: LightWAMConfig, action_substeps: int) -> int:
    """Rows between two frames of a window. Raises `DataError` when the data set's rows lie too far apart."""
    stride = config.video.stride
    if stride % action_substeps:
        raise DataError(
            f"data set has a frame every {action_substeps} control steps: the configuration's video.stride {stride} "
            "must be a multiple of it"
        )
    return stride // action_substeps


def _episode_actions(
    actions_TA: npt.NDArray[np.float32], starts: npt.NDArray[np.int64], horizon: int, is_delta_A: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Chunks [n, H, A] of one episode's control steps [T, A] from `starts` on, and their pad flags [n, H]."""
    steps = starts[:, None] + np.arange(horizon)
    is_pad = steps >= len(actions_TA)
    chunks = actions_TA[np.minimum(steps, len(actions_TA) - 1)]
    chunks[is_pad[..., None] & is_delta_A] = 0.0
    return chunks, is_pad


def build_windows(dataset: Dataset, config: LightWAMConfig) -> Windows:
    """The window of every row of `dataset`."""
    stride = frame_stride(config, dataset.action_substeps)
    is_delta_A = np.array([dimension.delta for dimension in config.robot.action])
    rows, substeps, width = dataset.action.shape
    frames = config.video.num_frames
    action = np.zeros((rows, config.horizon, width), np.float32)
    action_is_pad = np.ones((rows, config.horizon), bool)
    frame_rows = np.zeros((rows, frames), np.int64)
    image_is_pad = np.ones((rows, frames), bool)
    for episode in dataset.episodes:
        span = slice(episode.start, episode.stop)
        local = np.arange(episode.length)
        steps_TA = dataset.action[span].reshape(-1, width)
        chunks, pads = _episode_actions(steps_TA, local * substeps, config.horizon, is_delta_A)
        action[span], action_is_pad[span] = chunks, pads
        wanted = local[:, None] + np.arange(frames) * stride
        frame_rows[span] = episode.start + np.minimum(wanted, episode.length - 1)
        image_is_pad[span] = wanted >= episode.length
    return Windows(action, action_is_pad, frame_rows, image_is_pad)


def measure_statistics(datasets: list[Dataset], config: LightWAMConfig) -> dict[str, Any]:
    """The content of a statistics file: over all rows of all data sets ('global'), and for each step of a window.

    `state|action` -> `default` -> `{global,stepwise}_{min,max,mean,std,q01,q99}`, `num_episodes`, `num_transition`.
    Made from tables only. Padded steps count in 'stepwise' as LIBERO's do.
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


def split_episodes(dataset: Dataset, fraction: float, seed: int) -> tuple[list[Episode], list[Episode]]:
    """(training, held-out) episodes; of two or more, one at least is each (none is held out at 0)."""
    count = len(dataset.episodes)
    held_out = 0 if fraction <= 0 or count < 2 else min(count - 1, max(1, round(fraction * count)))
    chosen = set(np.random.default_rng(seed).permutation(count)[:held_out].tolist())
    training = [episode for i, episode in enumerate(dataset.episodes) if i not in chosen]
    return training, [dataset.episodes[i] for i in sorted(chosen)]


def rows_of(episodes: list[Episode]) -> npt.NDArray[np.int64]:
    """All row numbers of these episodes, in order."""
    if not episodes:
        return np.zeros(0, np.int64)
    return np.concatenate([np.arange(episode.start, episode.stop) for episode in episodes])
