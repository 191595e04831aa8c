# SPDX-License-Identifier: Apache-2.0
"""Windows at an episode's inside and end, statistics from tables only, and the split by episode."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.dataset_fixture import LENGTHS, write_v3, write_v21
from helpers.robots import numbered, with_robot
from lightwam.config import LightWAMConfig
from lightwam.data import lerobot
from lightwam.data.lerobot import open_dataset
from lightwam.data.windows import build_windows, frame_stride, measure_statistics, rows_of, split_episodes
from lightwam.errors import DataError


def test_substeps_are_one_control_rate_sequence(tmp_path: Path) -> None:
    dataset, config = open_dataset(write_v3(tmp_path / "set")), LightWAMConfig.nano()
    windows = build_windows(dataset, config)
    np.testing.assert_array_equal(windows.action_NHA[0], dataset.action[0:4].reshape(16, 7))
    np.testing.assert_array_equal(windows.frame_rows_NF[0], [0, 1, 2, 3, 4])
    assert not windows.action_is_pad_NH[0].any() and not windows.image_is_pad_NF[0].any()


def test_the_end_of_an_episode_is_padded(tmp_path: Path) -> None:
    dataset, config = open_dataset(write_v3(tmp_path / "set")), LightWAMConfig.nano()
    windows, last = build_windows(dataset, config), LENGTHS[0] - 1
    assert windows.frame_rows_NF[last].tolist() == [last] * 5
    assert windows.image_is_pad_NF[last].tolist() == [False, True, True, True, True]
    assert windows.action_is_pad_NH[last].tolist() == [False] * 4 + [True] * 12
    # LIBERO: padded steps keep the last gripper command and stand still.
    np.testing.assert_array_equal(windows.action_NHA[last, 4:, :6], 0)
    np.testing.assert_array_equal(windows.action_NHA[last, 4:, 6], dataset.action[last, -1, 6])
    plain = build_windows(dataset, with_robot(config, action=numbered(7), gripper=None))
    np.testing.assert_array_equal(plain.action_NHA[last, 15], dataset.action[last, -1])


def test_published_windows_at_the_control_rate(tmp_path: Path) -> None:
    dataset, config = open_dataset(write_v21(tmp_path / "set")), LightWAMConfig.libero()
    windows = build_windows(dataset, config)
    assert windows.action_NHA.shape == (sum(LENGTHS), 32, 7)
    start = LENGTHS[0] + LENGTHS[1]
    np.testing.assert_array_equal(windows.frame_rows_NF[start], start + np.array([0, 4, 8, 8, 8, 8, 8, 8, 8]))
    assert windows.image_is_pad_NF[start].tolist() == [False] * 3 + [True] * 6


def test_rows_too_far_apart(tmp_path: Path) -> None:
    config = LightWAMConfig.nano()
    with pytest.raises(DataError, match="multiple"):
        frame_stride(replace(config, video=replace(config.video, stride=2)), 4)


def test_statistics_decode_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(write_v3(tmp_path / "set"))
    monkeypatch.setattr(lerobot, "read_frames", None)
    for path in tmp_path.glob("set/videos/**/*.mp4"):
        path.unlink()
    statistics = measure_statistics([dataset, dataset], LightWAMConfig.nano())
    assert set(statistics) == {"state", "action", "num_episodes", "num_transition"}
    state, action = statistics["state"]["default"], statistics["action"]["default"]
    np.testing.assert_allclose(action["global_min"], dataset.action.min((0, 1)))
    np.testing.assert_allclose(state["global_mean"], dataset.state.mean(0), rtol=1e-5)
    assert np.shape(action["stepwise_q01"]) == (16, 7) and np.shape(state["stepwise_q99"]) == (1, 8)
    assert (statistics["num_episodes"], statistics["num_transition"]) == (2 * len(LENGTHS), 8 * sum(LENGTHS))


def test_split_is_by_episode_and_repeats(tmp_path: Path) -> None:
    dataset = open_dataset(write_v3(tmp_path / "set"))
    training, held_out = split_episodes(dataset, 0.3, 0)
    assert len(training) == 2 and len(held_out) == 1
    assert split_episodes(dataset, 0.3, 0)[1] == held_out
    together = np.sort(np.concatenate([rows_of(training), rows_of(held_out)]))
    np.testing.assert_array_equal(together, np.arange(sum(LENGTHS)))


def test_an_episode_is_always_left_to_train_on(tmp_path: Path) -> None:
    dataset = open_dataset(write_v3(tmp_path / "set"))
    training, held_out = split_episodes(dataset, 0.99, 0)
    assert (len(training), len(held_out)) == (1, len(dataset.episodes) - 1)
