# SPDX-License-Identifier: Apache-2.0
"""The whole of `lightwam reproduce libero_object`, tiny: LIBERO, training, engines, evaluations, report."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.warm_python import WarmPython
from lightwam import cli
from lightwam.reproduce.plan import read_plan
from lightwam.reproduce.run import Choices, reproduce
from lightwam.runtime import Policy

RESULTS = ("blind-shifted", "float-official", "int8-shifted", "replay-shifted")
COMMAND = "import sys; from lightwam import cli; sys.exit(cli.main(sys.argv[1:]))"
TRAINING = """
import lightwam.cli.data_precompute, lightwam.cli.export, lightwam.cli.quantize, lightwam.cli.train
import matplotlib.pyplot, torch.utils.tensorboard
"""
SIMULATING = """
import lightwam.cli.eval, lightwam.cli.record
from lightwam.sim.libero.env import import_libero
import_libero()
"""


class Warm:
    """Runs commands in processes of their own, without the seconds in which each would import its libraries."""

    def __init__(self) -> None:
        self.training, self.simulating = WarmPython(TRAINING), WarmPython(SIMULATING)

    def __call__(self, words: Sequence[str], name: str, log: Path) -> None:
        simulated = name.partition("/")[0] in ("record", "replay", "evaluate")
        log.write_text((self.simulating if simulated else self.training).run(COMMAND, *words, timeout=1800))

    def close(self) -> None:
        self.training.close()
        self.simulating.close()


def test_all_stages_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "smoke"
    with contextlib.closing(Warm()) as run:
        reproduce(read_plan("libero_object", smoke=True), out, Choices(), run=run)
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
    assert cli.main(f"reproduce libero_object --smoke --workers 1 --out {out}".split()) == 0
    assert "0 steps are left" in capsys.readouterr().out
