# SPDX-License-Identifier: Apache-2.0
"""Statistics of other projects: read onto our fields, or refused by the name of what is missing."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightwam.config import LightWAMConfig
from lightwam.data.normalize import measure, normalizers, read_statistics
from lightwam.errors import DataError

VALUES = {"min": -1.0, "max": 2.0, "mean": 0.5, "std": 0.25, "q01": -0.5, "q99": 1.5}


def field(width: int, *names: str) -> dict[str, Any]:
    return {name: [VALUES[name]] * width for name in names or VALUES}


def ours() -> dict[str, Any]:
    prefixed = {width: {f"global_{name}": value for name, value in field(width).items()} for width in (8, 7)}
    return {"state": {"default": prefixed[8]}, "action": {"default": prefixed[7]}}


FORMS = {
    "ours": ours(),
    "lerobot": {"observation.state": {**field(8), "count": [9]}, "action": field(7),
                "observation.images.wrist": {"min": [[[0.0]]] * 3}},
    "openpi": {"norm_stats": {"state": field(8), "actions": field(7)}},
    "openpi keys": {"norm_stats": {"observation/state": field(8), "actions": field(7)}},
    "one data set": {"libero_object": {"proprio": field(8), "action": {**field(7), "mask": [True] * 7}, "num": 3}},
    "bare": {"state": field(8), "action": field(7)},
}  # fmt: skip


def built(document: dict[str, Any], mode: str, path: Path) -> tuple[list[float], list[float]]:
    path.write_text(json.dumps(document))
    nano = LightWAMConfig.nano()
    modes = replace(nano.robot.normalization, state=mode, action=mode)
    state, action = normalizers(nano.with_robot(replace(nano.robot, normalization=modes)), read_statistics(path))
    return [*state.scale, *state.offset], [*action.scale, *action.offset]


@pytest.mark.parametrize("mode", ["min/max", "q01/q99", "z-score"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_make_the_same_normaliser(tmp_path: Path, form: str, mode: str) -> None:
    path = tmp_path / "stats.json"
    assert built(FORMS[form], mode, path) == built(ours(), mode, path)


def test_what_was_taken_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "stats.json"
    both = {**FORMS["lerobot"], "state": field(8), "actions": field(7)}
    path.write_text(json.dumps(both))
    with caplog.at_level(logging.INFO, "lightwam.data"):
        read_statistics(path)
    assert "state from 'state' (not from 'observation.state')" in caplog.text
    assert "action from 'action' (not from 'actions')" in caplog.text


def test_statistics_of_every_step_are_joined(tmp_path: Path) -> None:
    """`lightwam record` keeps several control steps in a row: [S, A]."""
    rows = np.random.default_rng(0).standard_normal((50, 4, 7)).astype(np.float32)
    table = {name: np.asarray(value).tolist() for name, value in zip(
        ("min", "max", "mean", "std", "q01"), (rows.min(0), rows.max(0), rows.mean(0), rows.std(0), rows.min(0)),
        strict=True)}  # fmt: skip
    document = {"observation.state": field(8), "action": table}
    (tmp_path / "stats.json").write_text(json.dumps(document))
    found = read_statistics(tmp_path / "stats.json")["action"]["default"]
    expected = measure(rows.reshape(-1, 7), "global")
    assert sorted(found) == ["global_max", "global_mean", "global_min", "global_std"]
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6)


@pytest.mark.parametrize(
    "document, mode, told",
    [
        ({"norm_stats": {"state": field(8, "mean", "std"), "actions": field(7)}}, "q01/q99",
         "state lack global_q01.*'q01/q99'.*they hold mean, std"),
        ({"norm_stats": {"state": {**field(8), "q01": None}, "actions": field(7)}}, "q01/q99", "lack global_q01"),
        ({"norm_stats": {"state": field(32), "actions": field(32)}}, "z-score", "32 numbers: give 8"),
        ({"observation.state": field(8), "action": field(6)}, "min/max", "action.*6 numbers: give 7"),
        ({"a": {"action": field(7), "proprio": field(8)}, "b": {"action": field(7), "proprio": field(8)}}, "min/max",
         r"several data sets \(a, b\)"),
        ({"observation.state.arm": field(7), "observation.state.hand": field(1), "action": field(7)}, "min/max",
         r"state in parts \(observation.state.arm, observation.state.hand\)"),
        ({"foo": 1, "bar": 2}, "min/max", "they hold: foo, bar.*LeRobot"),
        ({}, "min/max", "they hold: nothing"),
        ({"state": {**field(8), "min": [-3e38] * 8, "max": [3e38] * 8}, "action": field(7)}, "min/max", "scale 0.0"),
        ({"state": {**field(8), "mean": [3e38] * 8, "std": [0.0] * 8}, "action": field(7)}, "z-score", "inf"),
        ({"state": field(8), "action": {name: [0.0] * 7 for name in VALUES}}, "min/max", "no dimension varies"),
        ({"state": field(8), "action": {name: [0.0] * 7 for name in VALUES}}, "z-score", "no dimension varies"),
        ({"state": {**field(8), "min": [10**400] * 8}, "action": field(7)}, "min/max", "give 8 finite numbers"),
        ({"state": {**field(8), "min": [["a"]]}, "action": field(7)}, "min/max", "other than numbers"),
        ({"state": {**field(8), "min": ["-1"] * 8}, "action": field(7)}, "min/max", "other than numbers"),
        ({"state": {**field(8), "min": [False] * 8}, "action": field(7)}, "min/max", "other than numbers"),
        ({"state": {**field(8), "max": [1e39] * 8}, "action": field(7)}, "min/max", "give 8 finite numbers"),
    ],
)  # fmt: skip
def test_refused_by_name(tmp_path: Path, document: dict[str, Any], mode: str, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught, np.errstate(all="raise"):
        built(document, mode, tmp_path / "stats.json")
    assert "\n" not in str(caught.value)


def test_neighbouring_files(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").touch()
    with pytest.raises(DataError, match=r"LeRobot data set: give .*stats\.json"):
        read_statistics(tmp_path)
    (tmp_path / "episodes_stats.jsonl").write_text('{"episode_index": 0, "stats": {}}\n')
    with pytest.raises(DataError, match="single episodes"):
        read_statistics(tmp_path / "episodes_stats.jsonl")
    (tmp_path / "stats.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 3\n")
    with pytest.raises(DataError, match="git lfs pull"):
        read_statistics(tmp_path / "stats.json")
