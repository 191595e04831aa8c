# SPDX-License-Identifier: Apache-2.0
"""A set that LeRobot's own package wrote (tests/data/lerobot_package), read by us."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from helpers import arm_set
from lightwam.data.check import check_folders
from lightwam.data.frames import read_frames
from lightwam.data.propose import propose_robot
from lightwam.data.sources import open_dataset

ROOT = Path(__file__).parents[2] / "data" / "lerobot_package"
LENGTHS = (14, 11, 13)


def test_rows_tasks_and_frames() -> None:
    data = open_dataset(ROOT)
    assert (data.fps, data.cameras) == (30.0, arm_set.CAMERAS)
    assert [(e.length, e.task) for e in data.episodes] == [(n, arm_set.TASKS[e % 2]) for e, n in enumerate(LENGTHS)]
    for e, episode in enumerate(data.episodes):
        span = slice(episode.start, episode.stop)
        assert np.array_equal(data.state[span], arm_set.states(e, LENGTHS[e]))
        assert np.array_equal(data.action[span, 0], arm_set.actions(e, LENGTHS[e]))
        for k, camera in enumerate(arm_set.CAMERAS):
            frames = next(read_frames([episode.videos[camera]])).astype(int)
            errors = [
                [np.abs(frame[::2, ::2] - arm_set.picture(e, row, k)).mean() for row in range(LENGTHS[e])]
                for frame in frames
            ]
            assert np.argmin(errors, axis=1).tolist() == list(range(LENGTHS[e]))  # no neighbour is as near


def test_nothing_is_wrong_with_it() -> None:
    assert check_folders([ROOT]) == []
    robot = propose_robot(ROOT, "nano").document["robot"]
    assert [d["name"] for d in robot["action"]] == list(arm_set.JOINTS) and robot["control_hz"] == 30.0


def test_its_cut_videos_are_found(tmp_path: Path) -> None:
    root = Path(shutil.copytree(ROOT, tmp_path / "set"))
    video = next(root.glob("videos/*front/**/*.mp4"))
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    kinds = {(f.severity, f.kind) for f in check_folders([root])}
    assert kinds == {("error", "video")}
