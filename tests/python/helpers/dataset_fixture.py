# SPDX-License-Identifier: Apache-2.0
"""Tiny LeRobot data sets for tests: v3.0 by the recorder's writer, v2.1 by hand."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lightwam.config import LightWAMConfig
from lightwam.data.episode_files import Episode, write_episode, write_video
from lightwam.data.lerobot_writer import write_dataset

ROBOT = LightWAMConfig.libero().robot
TASK = "pick up the alphabet soup and place it in the basket"
CAMERAS = ("agentview", "wrist")
LENGTHS = (6, 4, 9)


def _images(rng: np.random.Generator, length: int, size: int) -> list[np.ndarray]:
    """Flat images whose brightness names the frame, so that a decoded frame can be told from its neighbours."""
    return [np.full((size, size, 3), 20 + 20 * i, np.uint8) for i in range(length)]


def with_gripper(action: np.ndarray) -> np.ndarray:
    """The last number of each action as LIBERO's gripper: 0 closed, 1 open."""
    action[..., -1] = action[..., -1] > 0
    return action


def write_v3(root: Path, *, lengths: tuple[int, ...] = LENGTHS, size: int = 64, action_width: int = 7) -> Path:
    """A v3.0 data set at `root` with 4 control steps a row; returns `root`."""
    rng = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        episode = Episode(TASK, "full")
        frames = {camera: _images(rng, length, size) for camera in CAMERAS}
        for row in range(length):
            action = rng.uniform(-1, 1, (4, action_width)).astype(np.float32)
            columns = {
                "observation.state": rng.normal(size=8).astype(np.float32),
                "action": with_gripper(action),
                "privileged.target_xy": rng.normal(size=2).astype(np.float32),
                "privileged.basket_xy": rng.normal(size=2).astype(np.float32),
            }
            episode.add_row(columns, {camera: frames[camera][row] for camera in CAMERAS})
        write_episode(root.with_name(root.name + ".staging") / f"episode_{number:06d}", episode, 5)
    write_dataset(root.with_name(root.name + ".staging"), root, ROBOT, fps=5, robot_type="panda")
    return root


def write_v21(root: Path) -> Path:
    """A v2.1 data set at `root`: one control step a row, one file an episode; returns `root`."""
    rng = np.random.default_rng(1)
    (root / "meta").mkdir(parents=True)
    features = {f"observation.images.{camera}": {"dtype": "video", "shape": [64, 64, 3]} for camera in CAMERAS}
    info = {
        "codebase_version": "v2.1", "fps": 20, "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {**features, "observation.state": {"dtype": "float32", "shape": [8]},
                     "action": {"dtype": "float32", "shape": [7]}},
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": TASK}) + "\n")
    listing = [{"episode_index": i, "tasks": [TASK], "length": length} for i, length in enumerate(LENGTHS)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listing))
    for index, length in enumerate(LENGTHS):
        action = with_gripper(rng.uniform(-1, 1, (length, 7)).astype(np.float32))
        table = pa.table({
            "observation.state": pa.array(rng.normal(size=(length, 8)).astype(np.float32).tolist()),
            "action": pa.array(action.tolist()),
            "task_index": pa.array([0] * length), "episode_index": pa.array([index] * length),
        })  # fmt: skip
        path = root / f"data/chunk-000/episode_{index:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        for camera in CAMERAS:
            video = root / f"videos/chunk-000/observation.images.{camera}/episode_{index:06d}.mp4"
            video.parent.mkdir(parents=True, exist_ok=True)
            write_video(video, _images(rng, length, 64), 20)
    return root
