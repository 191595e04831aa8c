# SPDX-License-Identifier: Apache-2.0
"""`lightwam eval` loses no finished trial, whatever ends it, and the same command goes on where it stopped."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import commands, toy_sim
from helpers.toy_sim import NAME, Toy, ToyEnv
from lightwam import cli
from lightwam.errors import SimulatorError
from lightwam.sim import journal as journals
from lightwam.sim.closed_loop import Trial

#: A toy whose trial 1 of task 1 waits for ever.
WAITING = """
import time
from helpers.toy_sim import Toy, ToyEnv

class Env(ToyEnv):
    def set_state(self, state):
        super().set_state(state)
        if self.task.index == 1 and abs(state[2] - 1.1) < 1e-9:
            print("waiting", flush=True)
            time.sleep(600)

class Waiting(Toy):
    def make_env(self, task, **options):
        return Env(task, options.get("render", True))
"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """An evaluation of six trials: three of two tasks, all but the first of each solved in 10, 11, 12 steps."""
    base = tmp_path / "replay.npz"
    assert cli.main(f"train replay --sim {NAME} --state 2 --out {base}".split()) == 0
    return f"eval --sim {NAME} --policy {base} --tasks 0 1 --out {tmp_path}/report.json".split()


def report(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return document


def runs(document: dict[str, Any]) -> list[list[int]]:
    """Task, index and steps of every trial of a report."""
    return [[task["task"], run["index"], run["steps"]] for task in document["per_task"] for run in task["runs"]]


def fail_at(monkeypatch: pytest.MonkeyPatch, error: BaseException, task: int, index: int) -> None:
    """Trial `index` of a task raises `error`."""
    whole = ToyEnv.set_state

    def set_state(env: ToyEnv, state_N: Any) -> None:
        if env.task.index == task and abs(state_N[2] - (1.0 + 0.1 * index)) < 1e-9:
            raise error
        whole(env, state_N)

    monkeypatch.setattr(ToyEnv, "set_state", set_state)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (SimulatorError("the arm fell off"), 2, "SimulatorError: the arm fell off"),
        (ZeroDivisionError("of the simulator's"), 2, "ZeroDivisionError: of the simulator's"),
        (KeyboardInterrupt(), 130, "interrupted by SIGINT"),
    ],
)
def test_a_trial_that_fails(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, reason: str
) -> None:
    assert cli.main(words) == 0
    whole = report(tmp_path)
    with monkeypatch.context() as patched:
        fail_at(patched, error, task=1, index=1)
        assert cli.main(words) == status
    part = report(tmp_path)
    assert part["unfinished"] == {"reason": reason, "missing": {"1": [1, 2]}}
    assert (part["successes"], part["trials"]) == (4, 4) and runs(part) == runs(whole)[:4]
    assert cli.main(words) == 0
    again = report(tmp_path)
    assert runs(again) == runs(whole) == [[t, i, 10 + i] for t in (0, 1) for i in range(3)]
    assert set(again) == set(whole) and again["latency"]["chunks"] == whole["latency"]["chunks"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["replay.npz", "report.json"]


def test_what_is_done_is_not_run_again(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        fail_at(patched, SimulatorError("no"), task=1, index=1)
        assert cli.main(words) == 2
        assert cli.main(words) == 2  # the same trial; nothing is lost meanwhile
    assert len(runs(report(tmp_path))) == 4
    started: list[tuple[int, float]] = []
    whole = ToyEnv.set_state
    monkeypatch.setattr(
        ToyEnv, "set_state", lambda env, s: (started.append((env.task.index, round(s[2], 1))), whole(env, s))[1]
    )
    assert cli.main(words) == 0
    assert started == [(1, 1.1), (1, 1.2)]
    assert "6/6" in capsys.readouterr().out and len(runs(report(tmp_path))) == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_signals(words: list[str], tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "waiting_sim.py").write_text(WAITING)
    words[words.index(NAME)] = "waiting_sim:Waiting"
    process = commands.start(*words, path=tmp_path)
    assert process.stdout is not None
    while process.stdout.readline() != "waiting\n":
        pass
    process.send_signal(number)
    _, errors = process.communicate(timeout=commands.PATIENCE)
    assert "Traceback" not in errors
    kept = (tmp_path / "report.trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in kept[1:]] == [0, 1, 2, 0]
    if number == signal.SIGKILL:
        assert not (tmp_path / "report.json").exists()
        return
    assert process.returncode == 128 + number
    assert "4 of 6 trials are done: the same command goes on from there" in errors
    assert report(tmp_path)["unfinished"]["reason"] == f"interrupted by {number.name}"
    assert report(tmp_path)["unfinished"]["missing"] == {"1": [1, 2]}


def unfinished(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave four of six trials."""
    with monkeypatch.context() as patched:
        fail_at(patched, SimulatorError("no"), task=1, index=1)
        assert cli.main(words) == 2


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--states", "shifted"], "another states 'official', now 'shifted'"),
        (["--trials", "2"], "another trials 3, now 2"),
        (["--first-trial", "1"], "another first trial 0, now 1"),
        (["--protocol", "patient"], "another protocol 'quick', now 'patient'"),
        (["--tasks", "1"], "another tasks [0, 1], now [1]"),
        (["--policy", "other"], "another policy sha256"),
        (["--sim", "helpers.toy_sim:Unlike"], "another simulator 'toy', now 'unlike'"),
    ],
)
def test_another_evaluation_is_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    changed: list[str], named: str,
) -> None:  # fmt: skip
    """By name of the difference; nothing of the first one is lost."""
    unfinished(words, monkeypatch)
    monkeypatch.setattr(toy_sim, "Unlike", type("Unlike", (Toy,), {"name": "unlike"}), raising=False)
    if changed[0] == "--policy":
        changed = ["--policy", f"{tmp_path}/other.npz"]
        arrays = dict(np.load(tmp_path / "replay.npz"))
        np.savez(changed[1], **{**arrays, "actions_0": arrays["actions_0"] * np.float32(0.5)})
    if changed[0] == "--tasks":
        words = [word for word in words if word not in ("--tasks", "0", "1")]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert cli.main([*words, *changed]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert named in message and "give the same options to go on, another --out, or remove that file" in message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_starts_that_do_not_exist_are_refused_before_the_first_trial(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trial beyond the official states, of one task and of two; a later task that cannot be moved."""
    monkeypatch.setattr(ToyEnv, "settle", lambda *_, **__: pytest.fail("a trial ran"))
    assert cli.main([*words, "--first-trial", "3"]) == 2
    assert "trial 5 has no official state: there are 5" in capsys.readouterr().err
    one = [word for word in words if word not in ("--tasks", "0", "1")]
    assert cli.main([*one, "--first-trial", "3"]) == 2

    def shifted_state(env: ToyEnv, official_N: Any, index: int) -> Any:
        if env.task.index == 1:
            raise SimulatorError("nothing here can be moved")
        return official_N

    monkeypatch.setattr(ToyEnv, "shifted_state", shifted_state)
    assert cli.main([*words, "--states", "shifted"]) == 2
    assert "nothing here can be moved" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["replay.npz"]


def test_a_line_that_was_cut_off_is_dropped_and_its_trial_runs_again(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished(words, monkeypatch)
    path = tmp_path / "report.trials.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert cli.main(words) == 0
    assert runs(report(tmp_path)) == [[t, i, 10 + i] for t in (0, 1) for i in range(3)]


def test_damaged_foreign_and_busy_files_are_named(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.trials.jsonl"
    path.write_text("my own notes\n")
    assert cli.main(words) == 2 and "nothing is replaced" in capsys.readouterr().err
    assert path.read_text() == "my own notes\n"
    path.unlink()
    unfinished(words, monkeypatch)
    kept = path.read_bytes()
    for damage in (b'{"index": 1}\n', b"[1]\n", b"no JSON\n"):
        path.write_bytes(kept + damage)
        assert cli.main(words) == 2 and "are damaged" in capsys.readouterr().err
        assert path.read_bytes() == kept + damage
    path.write_bytes(kept)
    identity = json.loads(kept.splitlines()[0])["of"]
    with pytest.raises(SimulatorError), journals.open_journal(path, identity):
        assert cli.main(words) == 2 and "another evaluation writes" in capsys.readouterr().err
        raise SimulatorError("ends here")
    assert path.read_bytes() == kept
    assert cli.main(words) == 0


def test_a_full_disk_keeps_the_trials_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.trials.jsonl"
    with pytest.raises(OSError, match="No space") as caught, journals.open_journal(path, {"a": 1}) as journal:
        journal.add(("reach", 0, "none"), Trial(0, True, 9, [0.5], [{"vae": np.float32(0.25)}]))
        size = path.stat().st_size
        monkeypatch.setattr(journals.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
        journal.add(("reach", 0, "none"), Trial(1, True, 9))
    assert caught.value.filename == str(path) and path.stat().st_size == size
    monkeypatch.undo()
    with journals.open_journal(path, {"a": 1}) as journal:
        assert journal.of(("reach", 0, "none")) == [Trial(0, True, 9, [0.5], [{"vae": 0.25}])]
    assert not path.exists()


def test_a_report_that_is_unfinished_says_so_beside_another(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished(words, monkeypatch)
    shutil.copy(tmp_path / "report.json", tmp_path / "part.json")
    assert cli.main([*words, "--beside", f"{tmp_path}/part.json"]) == 0
    assert "4 of 4, unfinished" in capsys.readouterr().out
    assert report(tmp_path)["beside"][0]["unfinished"]["missing"] == {"1": [1, 2]}
