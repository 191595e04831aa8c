# SPDX-License-Identifier: Apache-2.0
"""`lightwam data show` draws what a data set holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import arm_set
from helpers.golden_data import HDF5
from lightwam import cli


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return arm_set.write_arm_set(tmp_path_factory.mktemp("show") / "arm")


def test_pictures(arm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot, out = tmp_path / "robot.json", tmp_path / "pictures"
    robot.write_text(json.dumps(arm_set.robot_document()))
    words = ["data", "show", str(arm), "--out", str(out), "--frames", "4"]
    assert cli.main([*words, "--config", str(robot), "--episode", "2"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["frames.png", "motion.png", "numbers.png"]
    told = capsys.readouterr().out
    assert all(str(out / name) in told for name in ("frames.png", "numbers.png", "motion.png"))
    with_canvas = np.asarray(Image.open(out / "frames.png").convert("RGB"))
    shown = {tuple(colour) for colour in with_canvas.reshape(-1, 3).astype(int)}
    assert any(abs(r - 20) < 15 and abs(b - 200) < 15 for r, _, b in shown)  # the front camera's left upper corner
    assert cli.main(words) == 0  # without a robot; older pictures are replaced
    without = np.asarray(Image.open(out / "frames.png").convert("RGB"))
    assert without.shape[0] < with_canvas.shape[0] and without.shape[1] == with_canvas.shape[1]
    assert cli.main(["data", "show", str(HDF5 / "real_tiny"), "--out", str(tmp_path / "hdf5"), "--frames", "2"]) == 0


def test_what_cannot_be_shown(arm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "show", str(arm), "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--episode", "9"]) == 2 and "no episode 9: it has 4, up to 3" in capsys.readouterr().err
    assert cli.main([*words, "--frames", "0"]) == 2 and not (tmp_path / "out").exists()
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs/me.png").write_bytes(b"x")
    assert cli.main(["data", "show", str(arm), "--out", str(tmp_path / "photographs")]) == 2
    assert "holds other things than pictures (me.png)" in capsys.readouterr().err
    assert cli.main([*words, "--config", "nano"]) == 2 and "without ['agentview']" in capsys.readouterr().err
