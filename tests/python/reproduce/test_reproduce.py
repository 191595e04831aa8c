# SPDX-License-Identifier: Apache-2.0
"""Reproductions go on where they were, take nothing that was made otherwise, and report what they made."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.toy_plan import InProcess, toy_document, write_plan
from lightwam import cli
from lightwam.errors import ConfigError, RunFolderError, StageError
from lightwam.lock import FolderLock
from lightwam.reproduce import records
from lightwam.reproduce.child import run_command
from lightwam.reproduce.plan import read_plan
from lightwam.reproduce.run import Choices, reproduce

ALL = ["record", "replay", "evaluate/official", "evaluate/shifted", "check"]


def ran(folder: Path, fails: str = "", document: dict[str, Any] | None = None, **choices: Any) -> list[str]:
    """The steps that a call ran."""
    plan = write_plan(folder.parent / "toy.json", document or toy_document())
    run = InProcess(fails)
    reproduce(read_plan(str(plan)), folder, Choices(**choices), run=run)
    return run.ran


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished reproduction; leave it as it is."""
    folder = tmp_path_factory.mktemp("reproduce") / "toy"
    assert ran(folder) == ALL
    return folder


@pytest.fixture
def done(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "toy")
    return tmp_path / "toy"


def test_what_is_made(whole: Path) -> None:
    report = (whole / "report.md").read_text()
    assert report.startswith("# toy, made again\n") and "smoke" not in report
    assert "| replay.npz | quick | official | 100.0 (51.0-100.0) of 4 | 100.0 |" in report
    assert "| 0 | reach target 0 | 2 of 2 |" in report
    assert re.search(r"\| evaluate/shifted \| 0:00:\d\d \| 0:00:12 \| `lightwam eval --sim", report)
    log = (whole / "log.txt").read_text()
    assert all(f" {name} (" in log and f" {name}: done after 0:00:" in log for name in ALL)
    record = json.loads((whole / "steps/evaluate-official.json").read_text())
    assert record["done"] and record["identity"]["options.states"] == "official"
    assert record["identity"]["reads.replay"] == records.content(whole / "replay.npz")


def test_what_is_done_is_not_run_again(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(done) == []
    told = capsys.readouterr().out
    assert "0 steps are left: about 0:00:00" in told and "done in 0:00:" in told


def test_a_failed_step_is_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    with pytest.raises(StageError, match="evaluate/shifted ended with status 2"):
        ran(folder, fails="evaluate/shifted")
    assert "evaluate/shifted: stopped after" in (folder / "log.txt").read_text()
    assert not json.loads((folder / "steps/evaluate-shifted.json").read_text())["done"]
    assert ran(folder) == ["evaluate/shifted", "check"]


def test_stages_can_be_chosen(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    with pytest.raises(ConfigError, match="stage evaluate needs stage replay, which is not done: add it to --stages"):
        ran(folder, stages=("record", "evaluate"))
    assert not (folder / "steps").exists()
    assert ran(folder, stages=("evaluate", "replay")) == ALL[1:4] and not (folder / "report.md").exists()
    assert ran(folder, stages=("report",)) == [] and "| record | - |" in (folder / "report.md").read_text()
    with pytest.raises(ConfigError, match="--stages bake: choose from record, replay, evaluate, check, report"):
        ran(folder, stages=("bake",))


def test_what_was_made_otherwise_is_refused_by_name(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = toy_document(episodes=4)
    told = (
        r"record in .* was made otherwise: record\.options\.episodes is 4 instead of 3: .*--allow-changed record\.opt"
    )
    with pytest.raises(RunFolderError, match=told):
        ran(done, document=other)
    assert ran(done, document=other, allowed=("record.options",)) == []
    monkeypatch.setattr(records, "_code", lambda verb: "other")
    with pytest.raises(RunFolderError, match=r"record\.code is 'other' instead of"):
        ran(done)
    monkeypatch.undo()
    monkeypatch.setattr(records, "package_versions", lambda _: {"numpy": "0.1"})
    with pytest.raises(RunFolderError, match=r"record\.version of numpy is '0\.1' instead of"):
        ran(done)


def test_what_is_read_must_be_what_was_made(done: Path) -> None:
    (done / "steps/evaluate-official.json").unlink()
    replay = (done / "replay.npz").read_bytes()
    (done / "replay.npz").write_bytes(b"else")
    with pytest.raises(RunFolderError, match=r"replay\.npz, which evaluate/official reads, is not what replay made"):
        ran(done)
    (done / "replay.npz").unlink()
    with pytest.raises(RunFolderError, match=r"is missing: put it back, give another --out, or remove .*steps/replay"):
        ran(done)
    (done / "replay.npz").write_bytes(replay)
    assert ran(done) == ["evaluate/official"]
    shutil.rmtree(done / "data")  # nobody reads it any more
    assert ran(done) == []


def test_a_folder_of_other_things_is_left_alone(done: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match="mine holds other things than a reproduction: give another --out"):
        ran(mine)
    assert os.listdir(mine) == ["thesis.tex"]
    plan = str(write_plan(tmp_path / "toy.json", toy_document()))
    with pytest.raises(RunFolderError, match="of another reproduction: smoke is True instead of False"):
        reproduce(read_plan(plan, smoke=True), done, Choices(), run=InProcess())
    with (
        records.open_folder(done, read_plan(plan)),
        pytest.raises(RunFolderError, match=f"is in use by process {os.getpid()}"),
    ):
        ran(done)


def test_a_full_disk_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(7e6)))
    with pytest.raises(ConfigError, match="has 7 MB free, and about 7 MB are needed"):
        ran(tmp_path / "toy")


def test_an_estimate_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = write_plan(tmp_path / "toy.json", toy_document())
    assert cli.main(f"reproduce {plan} --estimate --workers 2 --out {tmp_path}/toy".split()) == 0
    told = capsys.readouterr().out
    assert "5 steps are left: about 0:03:54 with 2 workers, 6 MB. Estimates are those of no machine" in told
    assert not (tmp_path / "toy").exists()
    assert cli.main(f"reproduce {plan} --workers 0".split()) == 2 and "--workers is 0" in capsys.readouterr().err


def test_a_command_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(
        StageError, match=r"x ended with status 2: lightwam: unknown verb 'dance'.* \(.*log\); the same"
    ):
        run_command(["dance"], "x", log)
    assert log.read_text().startswith("$ lightwam dance\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_reproduction_goes_on(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command ends with it, however it ends; what was recorded is kept."""
    tests = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(tests), str(tests.parents[1] / "python"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    document = toy_document(episodes=80, clips=0)
    plan, folder = write_plan(tmp_path / "toy.json", document), tmp_path / "toy"
    first = folder / "data.staging/episode_000000/episode.json"
    words = [sys.executable, "-m", "lightwam.cli", "reproduce", str(plan), "--workers", "1", "--out", str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not first.exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == (143 if number == signal.SIGTERM else -9)
    finally:
        process.kill()
        process.communicate()
    assert not (folder / "data").exists() and not json.loads((folder / "steps/record.json").read_text())["done"]
    while is_held(folder / "data.staging/.lock"):  # a killed reproduction does not wait for its command
        time.sleep(0.01)
    kept = first.stat().st_mtime_ns
    assert len(os.listdir(folder / "data.staging")) < 80
    assert ran(folder, document=document) == ALL
    assert first.stat().st_mtime_ns == kept
    assert json.loads((folder / "data/meta/info.json").read_text())["total_episodes"] == 80


def is_held(lock: Path) -> bool:
    try:
        FolderLock(lock, "it", RuntimeError).release()
    except RuntimeError:
        return True
    return False
