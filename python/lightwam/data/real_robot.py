# SPDX-License-Identifier: Apache-2.0
"""Reader of the real-robot HDF5 layout: one file an episode.

`episode_N.hdf5` with the attribute `task`, `action` [T, A], `observation/state` [T, P] and, for each camera,
`observation/images/NAME`: one encoded image a step (PNG or JPEG, as variable-length or padded bytes), or uint8
[T, h, w, 3]. Images are taken to be RGB: the format does not say. It does not say the rate either.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from lightwam.data.dataset import Array, Dataset, Episode, FrameSpan, no_columns
from lightwam.data.hdf5 import episode_files, numbers, reading, same_widths, text
from lightwam.errors import DataError

PATTERN = r"episode_(\d+)\.(?:hdf5|h5)"
_IMAGES = "observation/images"


def open_real_robot(root: Path) -> Dataset:
    """Read a folder of real-robot episodes, in order of their numbers. Raises `DataError`."""
    files = episode_files(root, PATTERN)
    if not files:
        raise DataError(f"data set {root} has no file episode_N.hdf5: name the folder that holds them")
    states, actions, episodes, start = [], [], [], 0
    for number, path in files:
        state, action, episode = _read_episode(path, number, start)
        states.append(state)
        actions.append(action)
        episodes.append(episode)
        start = episode.stop
    for what, arrays in (("states", states), ("actions", actions)):
        same_widths(root, what, arrays)
    common = set.intersection(*(set(episode.videos) for episode in episodes))
    cameras = tuple(name for name in episodes[0].videos if name in common)
    action_NSA = np.concatenate(actions)[:, None]
    return Dataset(root, None, np.concatenate(states), action_NSA, no_columns(), tuple(episodes), cameras, True)


def _read_episode(path: Path, number: int, start: int) -> tuple[Array, Array, Episode]:
    """States [T, P], actions [T, A] (the last one repeated where they are fewer), and the episode."""
    with reading(path) as file:
        state, action = numbers(file, "observation/state"), numbers(file, "action")
        counts = {name: len(images) for name, images in _cameras(file).items()}
        task = text(file.attrs.get("task", "")).strip()
    if not task:
        raise DataError(f"HDF5 file {path} has no attribute 'task': write the instruction into it")
    rows = min([len(state), *counts.values()])
    lengths = {"states": len(state), "actions": len(action), **counts}
    if max(lengths.values()) - min(lengths.values()) > 1:
        warnings.warn(f"{path}: lengths differ ({lengths}); the shortest counts", stacklevel=2)
    own = min(rows, len(action))
    actions = action[np.minimum(np.arange(rows), own - 1)]
    spans = {name: FrameSpan(path, 0, rows, None, f"{_IMAGES}/{name}") for name in counts}
    return state[:rows], actions, Episode(number, start, start + rows, task, spans, None if own == rows else own)


def _cameras(file: Any) -> dict[str, Any]:
    group = file.get(_IMAGES)
    return {name: images for name, images in group.items() if hasattr(images, "shape") and images.ndim} if group else {}
