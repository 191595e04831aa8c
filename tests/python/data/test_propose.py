# SPDX-License-Identifier: Apache-2.0
"""A robot file from a data set alone, and statistics from its tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import arm_set
from helpers.arm_set import edit_info
from helpers.golden_data import HDF5, LEROBOT
from lightwam import cli
from lightwam.config import read_config
from lightwam.data.normalize import Normalizer, read_statistics
from lightwam.data.propose import propose_robot
from lightwam.data.sources import open_datasets
from lightwam.errors import DataError


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return arm_set.write_arm_set(tmp_path_factory.mktemp("propose") / "arm")


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def test_a_six_joint_arm_with_two_cameras_at_30_hz(
    arm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "robot.json"
    assert run("robot", "from-dataset", arm, "--out", out, "--base", "nano") == 0
    told = capsys.readouterr().out
    config = read_config(out)
    robot = config.robot
    assert (robot.name, robot.control_hz, config.horizon) == ("so101_follower", 30.0, 16)
    assert [(c.name, c.left, c.width, c.in_data) for c in robot.cameras] == [
        ("front", 0, 128, "upright"), ("wrist", 128, 128, "upright")]  # fmt: skip
    assert [d.name for d in robot.state] == [d.name for d in robot.action] == list(arm_set.JOINTS)
    assert [d.unit for d in robot.action] == ["deg"] * 5 + ["%"] and not any(d.delta for d in robot.action)
    assert robot.gripper is not None and robot.gripper.two_valued
    assert (robot.gripper.dimension, robot.gripper.data_open, robot.gripper.data_closed) == ("gripper", 100.0, 0.0)
    assert "Guessed, please check: cameras: places" in robot.notes and "control_hz" not in robot.notes
    assert "most episodes begin with it" in told and "8 fields were guessed" in told
    assert run("data", "check", arm, "--config", out, "--quick") == 0
    before = out.read_text()
    assert run("robot", "from-dataset", arm, "--out", out) == 2 and out.read_text() == before
    assert open_datasets([arm], config)[0].fps == 30


def test_what_a_set_does_not_tell(arm: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(arm, tmp_path / "set"))
    info = json.loads((root / "meta/info.json").read_text())
    for key in ("observation.state", "action"):
        info["features"][key]["names"] = None
    edit_info(root, features=info["features"], robot_type=None)
    made = propose_robot(root, "nano")
    robot = made.document["robot"]
    assert robot["name"] == "set" and robot["gripper"]["dimension"] == "state_5" == robot["action"][5]["name"]
    assert {"name", "state: names", "action: names", "gripper"} <= set(made.guesses)
    with pytest.raises(DataError, match="does not tell its rate: give --control-hz"):
        propose_robot(HDF5 / "real_tiny")
    made = propose_robot(HDF5 / "real_tiny", "robotwin", control_hz=15.0)
    assert [(c["top"], c["height"], c["width"]) for c in made.document["robot"]["cameras"]] == [
        (0, 128, 256), (128, 128, 128), (128, 128, 128)]  # fmt: skip


def test_deltas_and_the_grippers_sense_from_the_numbers(arm: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(arm, tmp_path / "set"))
    info = json.loads((root / "meta/info.json").read_text())
    names = ["x", "y", "z", "roll", "pitch", "finger"]
    info["features"]["observation.state"]["names"] = {"axes": names}
    info["features"]["action"]["names"] = None
    edit_info(root, features=info["features"])

    def edit(columns: dict[str, np.ndarray]) -> None:
        state = columns["observation.state"].astype(float)
        columns["action"] = np.vstack([np.diff(state, axis=0), 0 * state[:1]]) / 10
        state[:, :5] /= 100
        closing = np.convolve(state[:, 5] / 100, np.ones(4) / 4)[: len(state)]
        columns["action"][:, 5] = 1 - state[:, 5] / 100  # 1 closes
        state[:, 5] = 0.04 * np.concatenate([np.ones(3), closing[3:]])
        columns["observation.state"] = state

    arm_set.edit_all(root, edit)
    robot = propose_robot(root).document["robot"]
    assert [d["name"] for d in robot["action"]][:5] == [f"delta_{name}" for name in names[:5]]
    assert all(d["delta"] for d in robot["action"][:5]) and robot["state"][0]["unit"] == "m"
    assert (robot["gripper"]["data_open"], robot["gripper"]["data_closed"]) == (0.0, 1.0)


def test_state_in_parts(arm: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(arm, tmp_path / "set"))
    info = json.loads((root / "meta/info.json").read_text())
    whole = info["features"].pop("observation.state")
    info["features"] |= {"observation.state.arm": whole | {"shape": [5], "names": None},
                         "observation.state.hand": whole | {"shape": [1], "names": None}}  # fmt: skip
    edit_info(root, features=info["features"])

    def edit(columns: dict[str, np.ndarray]) -> None:
        state = columns.pop("observation.state")
        columns["observation.state.arm"], columns["observation.state.hand"] = state[:, :5], state[:, 5:]

    arm_set.edit_all(root, edit)
    out = tmp_path / "robot.json"
    assert run("robot", "from-dataset", root, "--out", out, "--base", "nano") == 0
    config = read_config(out)
    assert config.robot.state_keys == ("observation.state.arm", "observation.state.hand")
    assert np.array_equal(open_datasets([root], config)[0].state[:24], arm_set.states(0, 24))


def test_statistics_from_tables_alone(arm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(arm, tmp_path / "set"))
    shutil.rmtree(root / "videos")
    (tmp_path / "robot.json").write_text(json.dumps(arm_set.robot_document()))
    rows = np.concatenate([arm_set.states(e, n) for e, n in enumerate(arm_set.LENGTHS)]).astype(np.float64)

    def stats(name: str, *words: object) -> dict[str, Any]:
        out = tmp_path / name
        assert run("data", "stats", root, "--config", tmp_path / "robot.json", "--out", out, *words) == 0
        return json.loads(out.read_text())

    ours = stats("ours.json")["state"]["default"]
    assert np.allclose(ours["global_mean"], rows.mean(0)) and np.allclose(ours["global_std"], rows.std(0))
    lerobot = stats("lerobot.json", "--form", "lerobot")
    assert set(lerobot) == {"observation.state", "action"}
    assert lerobot["observation.state"]["count"] == [len(rows)]
    assert np.allclose(lerobot["observation.state"]["q90"], np.quantile(rows, 0.9, axis=0))
    read = read_statistics(tmp_path / "lerobot.json")
    one, other = (Normalizer.from_statistics(d, "state", "q01/q99", 6) for d in (read, {"state": {"default": ours}}))
    assert np.allclose(one.scale, other.scale) and np.allclose(one.offset, other.offset)
    third = stats("third.json", "--resample", "stride", "--config", _slower(tmp_path))
    assert third["num_transition"] == sum(-(-n // 3) for n in arm_set.LENGTHS)
    assert "4 episodes, 92 rows" in capsys.readouterr().out


def _slower(folder: Path) -> Path:
    path = folder / "slower.json"
    path.write_text(json.dumps(arm_set.robot_document(control_hz=10.0)))
    return path


def test_published_definition(tmp_path: Path) -> None:
    for folder, name, base in ((LEROBOT, "robotwin_tiny", "robotwin"),):
        robot = tmp_path / "robot.json"
        made = propose_robot(folder / name, base).document
        robot.write_text(json.dumps(made))
        out = tmp_path / f"{name}.json"
        assert run("data", "stats", folder / name, "--config", robot, "--out", out, "--definition", "published") == 0
        theirs = json.loads((folder / f"{name}_dataset_stats.json").read_text())
        ours = json.loads(out.read_text())
        for field in ("state", "action"):
            for key, values in theirs[field]["default"].items():
                assert np.allclose(ours[field]["default"][key], values, rtol=1e-5, atol=1e-6), (field, key)


def test_statistics_replace_nothing_else(arm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot = tmp_path / "robot.json"
    robot.write_text(json.dumps(arm_set.robot_document()))
    assert run("data", "stats", arm, "--config", robot, "--out", robot) == 2
    assert "is not statistics of lightwam" in capsys.readouterr().err and "so101" in robot.read_text()
    for words in (("--form", "lerobot", "--definition", "published"), ("--sample-stride", "2")):
        assert run("data", "stats", arm, "--config", robot, "--out", tmp_path / "s.json", *words) == 2
