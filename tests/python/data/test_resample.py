# SPDX-License-Identifier: Apache-2.0
"""Data sets put on the robot's control rate, or refused; states that lie in several columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers import arm_set
from helpers.arm_set import LENGTHS, arm_config, states, table_path
from lightwam.config import LightWAMConfig
from lightwam.config.selection import Selection
from lightwam.data.caches import FrameCache
from lightwam.data.dataset import Dataset
from lightwam.data.frames import read_frames
from lightwam.data.resample import resampled
from lightwam.data.sources import open_dataset, open_datasets
from lightwam.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return arm_set.write_arm_set(tmp_path_factory.mktemp("resample") / "arm")


def at(folder: Path, hz: float, **changes: object) -> LightWAMConfig:
    return arm_config(folder, control_hz=hz, **changes)


def test_an_integer_stride_picks_rows_and_their_frames(arm: Path, tmp_path: Path) -> None:
    config = at(tmp_path, 10.0)
    with pytest.raises(DataError, match=r"30 Hz, .* takes them at 10 Hz; .* --resample"):
        open_datasets([arm], config)
    (data,) = open_datasets([arm], config, resample="stride")
    plain = open_dataset(arm)
    assert data.fps == 10 and [e.length for e in data.episodes] == [-(-n // 3) for n in LENGTHS]
    for new, old in zip(data.episodes, plain.episodes, strict=True):
        assert np.array_equal(data.state[new.start : new.stop], plain.state[old.start : old.stop : 3])
        assert np.array_equal(data.action[new.start : new.stop], plain.action[old.start : old.stop : 3])
        frames, all_frames = (next(read_frames([e.videos["wrist"]])) for e in (new, old))
        assert np.array_equal(frames, all_frames[::3])
    (other,) = open_datasets([arm], config, Selection(episodes=("2",)), "stride")
    assert np.array_equal(other.state, data.state[data.episodes[2].start : data.episodes[2].stop])
    caches = [FrameCache(d, config.cameras, tmp_path) for d in (data, plain)]
    assert caches[0].name(data.episodes[0]) != caches[1].name(plain.episodes[0])
    assert caches[0].build() == len(LENGTHS) and len(caches[0].load(data.episodes[1])) == data.episodes[1].length


def test_other_rates_are_interpolated_in_time(arm: Path, tmp_path: Path) -> None:
    for hz in (20.0, 45.0):
        config = at(tmp_path, hz)
        with pytest.raises(DataError, match="no multiple"):
            open_datasets([arm], config, resample="stride")
        (data,) = open_datasets([arm], config, resample="interpolate")
        for e, episode in enumerate(data.episodes):
            seconds = np.arange(episode.length) / hz
            assert seconds[-1] <= (LENGTHS[e] - 1) / 30 + 1e-9 < seconds[-1] + 1 / hz
            truth = states(e, LENGTHS[e]).astype(np.float64)
            for joint in range(5):  # between the rows, on straight lines: float64 NumPy is the reference
                wanted = np.interp(seconds, np.arange(LENGTHS[e]) / 30, truth[:, joint])
                assert np.allclose(data.state[episode.start : episode.stop, joint], wanted, atol=1e-4)
            held = truth[np.floor(seconds * 30 + 1e-6).astype(int), 5]
            assert np.array_equal(data.state[episode.start : episode.stop, 5], held)  # two values: the last one
            assert set(np.unique(data.action[episode.start : episode.stop, 0, 5])) <= {0.0, 100.0}
        picks = data.episodes[0].videos["front"].picks
        assert picks == tuple(np.minimum(np.floor(np.arange(len(picks)) * 30 / hz + 0.5), LENGTHS[0] - 1).astype(int))


def test_deltas_keep_their_sum_and_angles_do_not_turn_back(arm: Path, tmp_path: Path) -> None:
    dimensions = arm_set.robot_document()["robot"]["action"]
    config = at(tmp_path, 10.0, action=[{**d, "delta": i < 5} for i, d in enumerate(dimensions)])
    plain = open_dataset(arm)
    (data,) = open_datasets([arm], config, resample="interpolate")
    new, old = data.episodes[0], plain.episodes[0]
    assert old.length == 3 * new.length
    sums = plain.action[: old.stop, 0, :5].astype(np.float64).reshape(new.length, 3, 5).sum(1)
    assert np.allclose(data.action[: new.stop, 0, :5], sums, atol=1e-3)
    state = plain.state.copy()
    state[:, 0] = 179.0 * (1 - 2 * (np.arange(len(state)) % 2))  # 179, -179, 179, ...
    turning = resampled(replace(plain, state=state), at(tmp_path, 20.0).robot, "interpolate")
    assert set(np.unique(turning.state[:, 0])) == {-179.0, 179.0}


def test_what_is_never_resampled(arm: Path, tmp_path: Path) -> None:
    data, robot = open_dataset(arm), at(tmp_path, 10.0).robot
    assert resampled(data, at(tmp_path, 30.0).robot, "interpolate") is data
    assert resampled(replace(data, fps=None), robot, "interpolate").fps is None
    rows = replace(data, action=np.repeat(data.action, 2, axis=1))
    with pytest.raises(DataError, match=r"2 actions a row: .* set control_hz to 60"):
        resampled(rows, robot, "stride")
    with pytest.raises(ConfigError, match="resampling is 'yes'"):
        resampled(data, robot, "yes")  # type: ignore[arg-type]


def test_states_and_actions_in_several_columns(arm: Path, tmp_path: Path) -> None:
    import shutil

    root = Path(shutil.copytree(arm, tmp_path / "parts"))
    plain: Dataset = open_dataset(arm)
    for e in range(len(LENGTHS)):
        table = pq.read_table(table_path(root, e))
        for key, parts in (("observation.state", ("arm", "hand")), ("action", ("action.arm", "action.hand"))):
            values = np.array(table[key].to_pylist(), np.float32)
            table = table.append_column(parts[0], pa.array(values[:, :5].tolist(), pa.list_(pa.float32())))
            table = table.append_column(parts[1], pa.array(values[:, 5]))  # a number, not a list of one
            table = table.drop_columns([key])
        pq.write_table(table, table_path(root, e))
    with pytest.raises(DataError, match=r"no column 'observation.state'"):
        open_datasets([root], at(tmp_path, 30.0))
    config = at(tmp_path, 30.0, state_keys=["arm", "hand"], action_keys=["action.arm", "action.hand"])
    (data,) = open_datasets([root], config)
    assert np.array_equal(data.state, plain.state) and np.array_equal(data.action, plain.action)
    with pytest.raises(ConfigError, match="each name once"):
        at(tmp_path, 30.0, state_keys=["arm", "arm"])
