# SPDX-License-Identifier: Apache-2.0
"""Staged episodes and the LeRobot v3.0 data set joined from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lightwam.config import LightWAMConfig
from lightwam.data.episode_files import Episode, read_episode_meta, read_episode_rows, write_episode, write_video
from lightwam.data.lerobot import open_dataset, read_frames
from lightwam.data.lerobot_writer import EPISODES_A_FILE, write_dataset
from lightwam.errors import DataError

ROBOT = LightWAMConfig.libero().robot
TASKS = ("pick up the soup", "pick up the milk")


def smooth_image(rng: np.random.Generator, size: int = 32) -> np.ndarray:
    """An image that compression keeps: a few broad colours."""
    corners = rng.integers(20, 235, (2, 2, 3))
    weight = np.linspace(0, 1, size)
    rows = corners[0][None] * (1 - weight)[:, None, None] + corners[1][None] * weight[:, None, None]
    image = rows[:, :1] * (1 - weight)[None, :, None] + rows[:, 1:] * weight[None, :, None]
    return image.astype(np.uint8)


def episode(seed: int, rows: int) -> Episode:
    rng = np.random.default_rng(seed)
    made = Episode(task=TASKS[seed % 2], kind="full" if seed % 2 else "pick")
    for _ in range(rows):
        columns = {
            "observation.state": rng.normal(size=8).astype(np.float32),
            "action": rng.normal(size=(4, 7)).astype(np.float32),
            "privileged.target_xy": rng.normal(size=2).astype(np.float32),
        }
        made.add_row(columns, {"agentview": smooth_image(rng), "wrist": smooth_image(rng)})
    return made


def stage(folder: Path, lengths: list[int]) -> list[Episode]:
    episodes = [episode(seed, rows) for seed, rows in enumerate(lengths)]
    for number, one in enumerate(episodes):
        write_episode(folder / f"episode_{number:06d}", one, fps=5)
    return episodes


def test_an_episode_reads_back(tmp_path: Path) -> None:
    one = stage(tmp_path, [3])[0]
    folder = tmp_path / "episode_000000"
    rows = read_episode_rows(folder)
    assert rows["action"].shape == (3, 4, 7)
    np.testing.assert_array_equal(rows["observation.state"], np.stack(one.columns["observation.state"]))
    assert read_episode_meta(folder)["rows"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["episode_000000"]


def test_the_data_set_reads_back(tmp_path: Path) -> None:
    episodes = stage(tmp_path / "staging", [3, 5, 2])
    info = write_dataset(tmp_path / "staging", tmp_path / "set", ROBOT, fps=5, robot_type="panda")
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 10, 2)
    data = open_dataset(tmp_path / "set")
    data.check(("agentview", "wrist"), 8, 7)
    assert data.action_substeps == 4 and [one.length for one in data.episodes] == [3, 5, 2]
    assert [one.task for one in data.episodes] == [TASKS[0], TASKS[1], TASKS[0]]
    np.testing.assert_array_equal(data.action, np.concatenate([np.stack(e.columns["action"]) for e in episodes]))
    np.testing.assert_array_equal(
        data.columns["privileged.target_xy"],
        np.concatenate([np.stack(e.columns["privileged.target_xy"]) for e in episodes]),
    )
    decoded = list(read_frames([one.videos["wrist"] for one in data.episodes]))
    for frames, one in zip(decoded, episodes, strict=True):
        error = np.abs(frames.astype(int) - np.stack(one.images["wrist"]).astype(int))
        assert error.mean() < 6


def test_statistics_are_exact_and_images_have_them_too(tmp_path: Path) -> None:
    episodes = stage(tmp_path / "staging", [4, 6])
    write_dataset(tmp_path / "staging", tmp_path / "set", ROBOT, fps=5, robot_type="panda")
    statistics = json.loads((tmp_path / "set/meta/stats.json").read_text())
    actions = np.concatenate([np.stack(e.columns["action"]) for e in episodes]).astype(np.float64)
    np.testing.assert_allclose(statistics["action"]["mean"], actions.mean(0))
    np.testing.assert_allclose(statistics["action"]["q99"], np.quantile(actions, 0.99, axis=0))
    assert statistics["action"]["count"] == [10]
    pixels = np.concatenate([np.stack(e.images["wrist"])[:, ::2, ::2].reshape(-1, 3) for e in episodes]) / 255
    image = statistics["observation.images.wrist"]
    np.testing.assert_allclose(np.ravel(image["mean"]), pixels.mean(0))
    np.testing.assert_allclose(np.ravel(image["std"]), pixels.std(0))
    assert np.shape(image["min"]) == (3, 1, 1)


def test_the_files_are_where_lerobot_looks_for_them(tmp_path: Path) -> None:
    stage(tmp_path / "staging", [2, 3])
    root = tmp_path / "set"
    write_dataset(tmp_path / "staging", root, ROBOT, fps=5, robot_type="panda")
    info = json.loads((root / "meta/info.json").read_text())
    listing = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert info["codebase_version"] == "v3.0" and info["lightwam.action_substeps"] == 4
    key = "observation.images.wrist"
    second = listing[1]
    assert (second["dataset_from_index"], second["dataset_to_index"], second["tasks"]) == (2, 5, [TASKS[1]])
    assert second[f"videos/{key}/from_timestamp"] == pytest.approx(0.4)
    video = info["video_path"].format(video_key=key, chunk_index=0, file_index=second[f"videos/{key}/file_index"])
    assert (root / video).is_file()
    rows = pq.read_table(root / info["data_path"].format(chunk_index=0, file_index=0))
    assert set(rows.column_names) == {name for name, f in info["features"].items() if f["dtype"] != "video"}
    assert rows["index"].to_pylist() == list(range(5)) and rows["frame_index"].to_pylist() == [0, 1, 0, 1, 2]
    tasks = pq.read_table(root / "meta/tasks.parquet")
    assert b"__index_level_0__" in tasks.schema.metadata[b"pandas"]


def test_many_episodes_spread_over_files(tmp_path: Path) -> None:
    stage(tmp_path / "staging", [1] * (EPISODES_A_FILE + 2))
    write_dataset(tmp_path / "staging", tmp_path / "set", ROBOT, fps=5, robot_type="panda")
    data = open_dataset(tmp_path / "set")
    paths = [one.videos["agentview"].path.name for one in data.episodes]
    assert paths[0] == "file-000.mp4" and paths[-2:] == ["file-001.mp4"] * 2
    assert data.episodes[-1].videos["agentview"].first == 1


def test_a_newer_data_set_replaces_the_older(tmp_path: Path) -> None:
    stage(tmp_path / "staging", [2])
    write_dataset(tmp_path / "staging", tmp_path / "set", ROBOT, fps=5, robot_type="panda")
    stage(tmp_path / "staging", [2, 2])
    assert (
        write_dataset(tmp_path / "staging", tmp_path / "set", ROBOT, fps=5, robot_type="panda")["total_episodes"] == 2
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "staging"]


def test_bad_stagings_are_one_clear_error_each(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished episode"):
        write_dataset(tmp_path, tmp_path / "set", ROBOT, fps=5, robot_type="panda")
    with pytest.raises(DataError, match="no row"):
        write_episode(tmp_path / "episode_000000", Episode("t", "full"), fps=5)
    staging = tmp_path / "staging"
    stage(staging, [2, 2])
    write_video(staging / "episode_000001/wrist.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3, fps=5)
    with pytest.raises(DataError, match="3 frames for 2 rows"):
        write_dataset(staging, tmp_path / "set", ROBOT, fps=5, robot_type="panda")
    (staging / "episode_000001/wrist.mp4").write_bytes(b"not a video")
    with pytest.raises(DataError, match="damaged"):
        write_dataset(staging, tmp_path / "set", ROBOT, fps=5, robot_type="panda")
    odd = episode(1, 2)
    odd.columns["action"] = [row[:2] for row in odd.columns["action"]]
    write_episode(staging / "episode_000001", odd, fps=5)
    with pytest.raises(DataError, match="different folders"):
        write_dataset(staging, tmp_path / "set", ROBOT, fps=5, robot_type="panda")
    assert not (tmp_path / "set").exists()
