# SPDX-License-Identifier: Apache-2.0
"""The whole of `lightwam reproduce libero_object`, tiny: LIBERO, training, engines, evaluations, report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightwam import cli
from lightwam.runtime import Policy

RESULTS = ("blind-shifted", "float-official", "int8-shifted", "replay-shifted")


def test_all_stages_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "smoke"
    words = f"reproduce libero_object --smoke --workers 1 --out {out}".split()
    assert cli.main(words) == 0, capsys.readouterr().err
    for name in ("", "-int8"):
        engine = Policy(out / f"nano-libero-object{name}.lwam", threads=1)
        assert engine.replan_steps == 4
    assert sorted(path.stem for path in (out / "results").glob("*.json")) == list(RESULTS)
    for name in RESULTS:
        report = json.loads((out / f"results/{name}.json").read_text())
        assert report["trials"] == 1 and report["states"] == name.partition("-")[2]
        assert report["environment"]["versions"]["mujoco"] and not report["environment"]["torch_imported"]
    text = (out / "report.md").read_text()
    assert "A smoke run" in text and "not done" not in text and text.count("`lightwam ") == 12
    assert cli.main(words) == 0
    assert "0 steps are left" in capsys.readouterr().out
