# SPDX-License-Identifier: Apache-2.0
"""Statistics in the definition of the published code; ours is `lightwam.data.windows.measure_statistics`.

They are taken over windows: a row counts once for every window that holds it, repeated ends of episodes included (and
not zeroed). Every episode counts the same, however long it is. The variance of a step is the mean of the episodes'
unbiased variances plus the spread of their means; quantiles are the lowest and the highest of the episodes' own. States
are taken row by row of LeRobot sets, in windows of HDF5 sets.

Legend: n windows of one episode, E episodes, K steps of a window (1 for rows), D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.data.dataset import Dataset
from lightwam.data.windows import WindowIndex
from lightwam.errors import DataError

Floats = npt.NDArray[np.float32]


def published_statistics(
    datasets: Sequence[Dataset],
    config: LightWAMConfig,
    sample_stride: int = 1,
    one_window_is_nan: bool = False,
) -> dict[str, Any]:
    """The content of a statistics file, as the published code writes it.

    Args:
        datasets: whose episodes are measured together.
        config: horizon and window.
        sample_stride: as of the samples.
        one_window_is_nan: the published code makes every deviation NaN when an episode has a single window (an HDF5
            episode of exactly 33 steps); without this option such an episode has the variance 0.

    Raises:
        DataError: there is no window; HDF5 and other sets together.
    """
    if len({dataset.whole_windows for dataset in datasets}) != 1:
        raise DataError("the published statistics differ between HDF5 and LeRobot sets: measure them apart")
    states, actions = [], []
    for dataset in datasets:
        index = WindowIndex(dataset, config, sample_stride, zero_padded_deltas=False)
        for episode in dataset.episodes:
            rows = index.rows[np.searchsorted(index.rows, episode.start) : np.searchsorted(index.rows, episode.stop)]
            if len(rows):
                actions.append(index.windows(rows).action_NHA)
                states.append(index.state_windows(rows)[0] if dataset.whole_windows else dataset.state[rows][:, None])
    return {
        "state": {"default": _summary(states, one_window_is_nan)},
        "action": {"default": _summary(actions, one_window_is_nan)},
        "num_episodes": len(states),
        "num_transition": sum(map(len, states)),
    }


def _summary(episodes_nKD: list[Floats], one_window_is_nan: bool) -> dict[str, Any]:
    """`{global,stepwise}_{min,max,mean,std,q01,q99}` of some episodes' windows, in float32 as published."""
    parts = [_episode(torch.from_numpy(np.ascontiguousarray(windows)), one_window_is_nan) for windows in episodes_nKD]
    low, high, mean, variance, q01, q99 = (torch.stack([part[i] for part in parts]) for i in range(6))  # [E, K, D]
    mean_KD, mean_D = mean.mean(0), mean.mean((0, 1))
    measured = {
        "stepwise_min": low.amin(0),
        "stepwise_max": high.amax(0),
        "global_min": low.amin((0, 1)),
        "global_max": high.amax((0, 1)),
        "stepwise_q01": q01.amin(0),
        "stepwise_q99": q99.amax(0),
        "global_q01": q01.amin((0, 1)),
        "global_q99": q99.amax((0, 1)),
        "stepwise_mean": mean_KD,
        "stepwise_std": (variance + (mean - mean_KD) ** 2).mean(0).sqrt(),
        "global_mean": mean_D,
        "global_std": (variance + (mean - mean_D) ** 2).mean((0, 1)).sqrt(),
    }
    return {name: values.tolist() for name, values in measured.items()}


def _episode(windows_nKD: Tensor, one_window_is_nan: bool) -> tuple[Tensor, ...]:
    """min, max, mean, unbiased variance, q01, q99 of each step [K, D]."""
    if len(windows_nKD) > 1:
        variance = windows_nKD.var(0)
    else:
        variance = torch.full(windows_nKD.shape[1:], torch.nan if one_window_is_nan else 0.0)
    q01, q99 = torch.quantile(windows_nKD, torch.tensor([0.01, 0.99]), dim=0)
    return windows_nKD.amin(0), windows_nKD.amax(0), windows_nKD.mean(0), variance, q01, q99
