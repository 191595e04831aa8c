# SPDX-License-Identifier: Apache-2.0
"""Reader of RoboTwin 2.0's own recordings: `<task>/<configuration>/data/episodeN.hdf5` and its instructions.

Known of the layout: `joint_action/vector` [T, 14] (left arm 6, left gripper, right arm 6, right gripper) and
`observation/<camera>/rgb`, one JPEG a step, padded with zero bytes; `instructions/episodeN.json` beside `data` holds
lists `seen` and `unseen`. Assumed, as RoboTwin's own converters do: the action of a step is the joint vector of the
next one (so an episode has T - 1 rows), and the JPEGs were encoded by OpenCV out of RGB arrays, so that red and blue
have to change places. The first `seen` instruction is the task; without instructions it is the name of the task's
folder. The cameras head_camera, left_camera, right_camera are called as the published data sets call them. The rate is
not in the files.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lightwam.data.dataset import Dataset, Episode, FrameSpan, no_columns
from lightwam.data.hdf5 import episode_files, numbers, reading, same_widths
from lightwam.errors import DataError

PATTERN = r"episode(\d+)\.hdf5"
CAMERAS = {"head_camera": "cam_high", "left_camera": "cam_left_wrist", "right_camera": "cam_right_wrist"}


def open_robotwin(root: Path) -> Dataset:
    """Read the recordings of one task: `root` is the folder with `data`, or `data` itself. Raises `DataError`."""
    folder = root / "data" if (root / "data").is_dir() else root
    files = episode_files(folder, PATTERN)
    if not files:
        raise DataError(f"data set {root} has no file data/episodeN.hdf5: name a RoboTwin task's configuration folder")
    vectors, episodes, start = [], [], 0
    for number, path in files:
        with reading(path) as file:
            vector = numbers(file, "joint_action/vector")
            counts = {
                name: len(group["rgb"])
                for name, group in (file.get("observation") or {}).items()
                if hasattr(group, "keys") and "rgb" in group
            }
        lengths = {"joint_action/vector": len(vector), **counts}
        if len(set(lengths.values())) > 1 or len(vector) < 2:
            raise DataError(f"HDF5 file {path} has the lengths {lengths}: they must be one number, 2 or more")
        spans = {
            CAMERAS.get(name, name): FrameSpan(path, 0, len(vector) - 1, None, f"observation/{name}/rgb", swapped=True)
            for name in counts
        }
        task = _task(folder, number)
        episodes.append(Episode(number, start, start + len(vector) - 1, task, spans))
        vectors.append(vector)
        start += len(vector) - 1
    same_widths(root, "joint vectors", vectors)
    state = np.concatenate([vector[:-1] for vector in vectors])
    action = np.concatenate([vector[1:] for vector in vectors])[:, None]
    common = set.intersection(*(set(episode.videos) for episode in episodes))
    cameras = tuple(name for name in episodes[0].videos if name in common)
    return Dataset(root, None, state, action, no_columns(), tuple(episodes), cameras)


def _task(folder: Path, number: int) -> str:
    path = folder.parent / "instructions" / f"episode{number}.json"
    if not path.exists():
        return folder.resolve().parent.parent.name.replace("_", " ")
    try:
        seen = json.loads(path.read_text(encoding="utf-8"))["seen"]
        task = str(seen[0]).strip()
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"instructions {path} have no 'seen' instruction ({error}): record them again") from error
    if not task:
        raise DataError(f"instructions {path} begin with an empty one: record them again")
    return task
