# SPDX-License-Identifier: Apache-2.0
"""Versions that are not the faithful ones: refused, warned of, shown; and what LIBERO does in the installed MuJoCo."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from helpers.toy_sim import NAME, Toy, ToyEnv
from lightwam import cli
from lightwam.errors import SimulatorError
from lightwam.sim.closed_loop import Trial, simulators
from lightwam.sim.env import Faithful, Sign
from lightwam.sim.fidelity import refuse_unfaithful, unknown_in
from lightwam.sim.journal import open_journal
from lightwam.sim.libero import fidelity
from lightwam.sim.libero.env import LiberoEnv, load_tasks
from lightwam.sim.libero.simulator import Libero

OTHER = Faithful({"numpy": "0.1"}, "the floor is darker", required=True)
HERE = metadata.version("mujoco")


class Checked(Toy):
    packages = ("numpy", "no-such-package")
    faithful: Faithful | None = OTHER

    def signs(self) -> Sequence[Sign]:
        return [Sign("brightness", (112.0, 100.4), (112.0, 100.0), 0.5)]


def test_other_versions_are_refused_unless_they_are_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    simulator = Checked()
    with pytest.raises(SimulatorError, match=r"instead of 0\.1; the floor is darker: pip install numpy==0\.1, or give"):
        refuse_unfaithful(simulator, any_simulator=False)
    with caplog.at_level(logging.WARNING):
        refuse_unfaithful(simulator, any_simulator=True)
        simulator.faithful = replace(OTHER, required=False)
        refuse_unfaithful(simulator, any_simulator=False)
    told = f"toy runs with numpy {metadata.version('numpy')} instead of 0.1: the floor is darker"
    assert [record.getMessage() for record in caplog.records] == [told, told]
    caplog.clear()
    for faithful in (None, Faithful({"numpy": metadata.version("numpy")}, "", True), Faithful({"none": "1"}, "", True)):
        simulator.faithful = faithful
        refuse_unfaithful(simulator, any_simulator=False)
    assert not caplog.records


@pytest.mark.parametrize("words", ["eval --policy none.npz", "record --out set", "demo", "train replay --out r.npz"])
def test_every_command_refuses_before_any_work(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Toy, "faithful", OTHER)
    monkeypatch.setattr(Toy, "make_env", lambda *_, **__: pytest.fail("an environment was built"))
    assert cli.main([*words.split(), "--sim", NAME]) == 2
    assert "give --any-simulator" in capsys.readouterr().err


def test_the_check_shows_every_figure_and_its_status_says_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--check-simulator", "--sim", NAME]
    assert cli.main(words) == 2 and "there is nothing to check" in capsys.readouterr().err
    version = metadata.version("numpy")
    monkeypatch.setattr(Toy, "packages", Checked.packages)
    monkeypatch.setattr(Toy, "signs", Checked.signs)
    monkeypatch.setattr(Toy, "faithful", Faithful({"numpy": version}, "the floor is darker", True))
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "brightness  112 100" in shown and "112 100 +- 0.5" in shown and shown.endswith("faithful\n")
    monkeypatch.setattr(Toy, "faithful", OTHER)
    assert cli.main(words) == 1
    shown = capsys.readouterr().out
    assert f"numpy       {version}" in shown and shown.endswith("not faithful: the floor is darker\n")
    monkeypatch.setattr(Toy, "faithful", Faithful({"numpy": version}, "the floor is darker", True))
    monkeypatch.setattr(Toy, "signs", lambda _: [Sign("brightness", (1.0,), (2.0,), 0.5)])
    assert cli.main(words) == 1


def test_recordings_of_before_do_not_say_which_simulator_it_was() -> None:
    identity = {"seed": 1, "version of mujoco": "3.3.0", "renderer": "osmesa"}
    assert unknown_in({"seed": 1}, identity) == {"version of mujoco": "3.3.0", "renderer": "osmesa"}
    assert unknown_in({"seed": 1, "version of mujoco": "3.17.0"}, identity) == {}


def test_reports_say_which_simulator_each_trial_ran_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"settled": "1a", "frame_rgb": [1.0, 2.0, 3.0]}
    monkeypatch.setattr(ToyEnv, "fingerprint", lambda _: here)
    replay, report = tmp_path / "replay.npz", tmp_path / "report.json"
    assert cli.main(["train", "replay", "--sim", NAME, "--state", "4", "--out", str(replay)]) == 0
    assert cli.main(["eval", "--sim", NAME, "--policy", str(replay), "--trials", "2", "--out", str(report)]) == 0
    entry = json.loads(report.read_text())["per_task"][0]
    assert entry["simulator"] == [here] and [run["simulator"] for run in entry["runs"]] == [here, here]
    assert simulators([{"simulator": here}, {"simulator": {}}, {}, {"simulator": here}]) == {"simulator": [here, {}]}
    with open_journal(tmp_path / "t.jsonl", {}) as journal:
        journal.add(("reach", 0, "none"), Trial(0, True, 9, simulator=here))
        journal.add(("reach", 0, "none"), Trial(1, True, 9))
        (tmp_path / "copy.jsonl").write_bytes((tmp_path / "t.jsonl").read_bytes())
    with open_journal(tmp_path / "copy.jsonl", {}) as journal:
        assert [trial.simulator for trial in journal.of(("reach", 0, "none"))] == [here, {}]


SEEN = {  # MuJoCo -> the bowl's tilt (degrees) and offset (m), and the mean RGB
    "3.3.0": ((16.0, 0.015), (145.0, 139.0, 132.0)),
    "3.17.0": ((51.0, 0.056), (112.0, 102.0, 94.0)),
}
known = pytest.mark.skipif(HERE not in SEEN, reason=f"MuJoCo {HERE} was not measured: {' and '.join(SEEN)} were")


@pytest.mark.parametrize("any_simulator", [False, True])
@pytest.mark.parametrize("required", [False, True])
def test_libero_refuses_another_mujoco_where_the_faithful_one_is_required(required: bool, any_simulator: bool) -> None:
    libero = Libero()
    libero.faithful = replace(fidelity.FAITHFUL, required=required)
    refused = required and not any_simulator and fidelity.FAITHFUL.versions["mujoco"] != HERE
    with pytest.raises(SimulatorError, match=r"pip install mujoco==3\.3\.0") if refused else contextlib.nullcontext():
        refuse_unfaithful(libero, any_simulator)


@known
def test_the_bowl_is_seated_in_the_faithful_simulator_alone() -> None:
    with contextlib.closing(LiberoEnv(load_tasks("libero_spatial")[5], render=False)) as env:
        tilt, offset = fidelity._seat(env)
        assert set(fidelity.fingerprint(env)) == {"settled"}
    wanted_tilt, wanted_offset = SEEN[HERE][0]
    assert tilt == pytest.approx(wanted_tilt, abs=6) and offset == pytest.approx(wanted_offset, abs=0.01)
    assert Sign("", (tilt,), (SEEN["3.3.0"][0][0],), 6.0).holds() == (HERE == "3.3.0")


@known
def test_a_fingerprint_shows_the_brightness_and_is_the_same_every_time() -> None:
    libero = Libero()
    with contextlib.closing(libero.make_env(libero.task(None, None), image_size=64, start_noise=True)) as env:
        first = env.fingerprint()
        env.step(np.ones(7))
        assert env.fingerprint() == first
    assert set(first) == {"settled", "frame", "frame_rgb"}
    np.testing.assert_allclose(first["frame_rgb"], SEEN[HERE][1], atol=4)
