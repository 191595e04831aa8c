# SPDX-License-Identifier: Apache-2.0
"""`lightwam eval` at work: many suites and tasks, processes, changed protocols, intervals, tables, merging, films."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from helpers import commands, toy_sim
from helpers.toy_sim import NAME, Toy, ToyEnv
from lightwam import cli
from lightwam.errors import SimulatorError
from lightwam.sim.plan import plan_trials
from lightwam.sim.tables import rows, wilson

#: A toy with two suites; a worker process of it kills itself once, at trial 1 of task 1, where a file says so.
MORTAL = """
import os, signal, sys
from pathlib import Path
from helpers.toy_sim import Toy, ToyEnv
from lightwam.sim.env import EvaluationProtocol

class Env(ToyEnv):
    def set_state(self, state):
        super().set_state(state)
        mark = Path(__file__).with_name("mortal")
        if self.task.index == 1 and abs(state[2] - 1.1) < 1e-9 and mark.exists():
            mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

class Mortal(Toy):
    suites = ("reach", "reach_far")
    def make_env(self, task, **options):
        return Env(task, options.get("render", True))
"""


class Two(Toy):
    """Two suites; the second has three tasks and the limit of the first."""

    suites = ("reach", "reach_far")

    def tasks(self, suite: str) -> Any:
        return [*super().tasks(suite), *super().tasks(suite)[:0]]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A demonstration that solves the trials it is long enough for."""
    monkeypatch.setattr(toy_sim, "Two", Two, raising=False)
    path = tmp_path / "replay.npz"
    assert cli.main(f"train replay --sim {NAME} --state 2 --out {path}".split()) == 0
    return path


def evaluated(base: Path, options: str, out: str = "report", sim: str = NAME, status: int = 0) -> dict[str, Any]:
    path = base.parent / f"{out}.json"
    assert cli.main(f"eval --sim {sim} --policy {base} --out {path} {options}".split()) == status
    return json.loads(path.read_text()) if path.exists() else {}


def outcomes(report: dict[str, Any]) -> list[Any]:
    """Every trial's outcome, without times."""
    names = ("suite", "task", "perturb", "successes", "trials", "interval_95", "runs")
    return [{name: entry[name] for name in names} for entry in report["per_task"]] + report["rows"]


def test_wilson_against_published_values() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    for counts, ends in (((0, 10), (0.0, 0.2775)), ((10, 10), (0.7225, 1.0)), ((81, 263), (0.2553, 0.3662))):
        assert wilson(*counts) == pytest.approx(ends, abs=5e-5)


def test_suites_and_tasks(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluated(base, "--suite reach reach_far --tasks all --trials 2 --markdown " + str(base) + ".md",
                       sim="helpers.toy_sim:Two")  # fmt: skip
    assert [(entry["suite"], entry["task"]) for entry in report["per_task"]] == [
        (suite, task) for suite in ("reach", "reach_far") for task in (0, 1)
    ]
    assert report["suite"] == "reach, reach_far" and report["tasks"] == [0, 1, 0, 1]
    (row,) = report["rows"]
    assert row["by_suite"]["reach_far"] == {"successes": 4, "trials": 4, "interval_95": [0.5101, 1.0]}
    assert row["mean"] == 100.0 and report["protocol_values"]["max_steps"] == {"reach": 40, "reach_far": 40}
    shown = capsys.readouterr().out
    assert "reach_far" in shown and "100.0 (51.0-100.0) of 4" in shown and "8/8" in shown
    written = Path(f"{base}.md").read_text()
    assert "| replay.npz | quick | official | 100.0 (51.0-100.0) of 4 | 100.0 (51.0-100.0) of 4 | 100.0 |" in written
    assert "| reach_far | 1 | none | reach target 1 | 100.0 (34.2-100.0) of 2 |" in written


def test_task_words() -> None:
    for words, chosen in ((["all"], [0, 1]), (["0-1"], [0, 1]), (["1,0"], [1, 0]), ([1], [1]), (["1", "1"], [1])):
        assert [task.index for task in plan_trials(Toy(), tasks=words).tasks] == chosen
    for word in ("x", "1-0", "-1", "0--1", "1,"):
        with pytest.raises(Exception, match="ranges"):
            plan_trials(Toy(), tasks=[word])


def test_the_mean_is_of_suites_not_of_trials() -> None:
    entries = [
        {"suite": "a", "perturb": "none", "successes": 1, "trials": 1},
        {"suite": "b", "perturb": "none", "successes": 0, "trials": 9},
        {"suite": "a", "perturb": "light:1", "successes": 0, "trials": 0},
    ]
    plain, light = rows(entries)
    assert (plain["mean"], plain["successes"], plain["trials"]) == (50.0, 1, 10)
    assert light["mean"] is None


def test_values_of_a_protocol_can_be_changed(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluated(base, "--settle-steps 1 --max-steps 11 --replan-steps 3 --seed 9 --trials 4 --states shifted")
    assert report["protocol"] == "quick with settle_steps 1, max_steps 11, replan_steps 3, seed 9"
    values = report["protocol_values"]
    assert values["max_steps"] == {"reach": 11} and (values["settle_steps"], values["seed"]) == (1, 9)
    assert report["executed_steps_a_chunk"] == 3 and report["states"] == values["states"] == "shifted"
    assert max(run["steps"] for run in report["per_task"][0]["runs"]) == 11
    for options, named in (("--max-steps 0", "at least 1"), ("--settle-steps -1", "at least 0"),
                           ("--states odd", "official, shifted"), ("--processes 0", "at least 1")):  # fmt: skip
        evaluated(base, options, "other", status=2)
        assert named in capsys.readouterr().err


def test_environments_are_closed_in_time(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[ToyEnv] = []
    most: list[int] = []
    make, close = Toy.make_env, ToyEnv.close

    def make_env(toy: Toy, task: Any, **options: Any) -> ToyEnv:
        alive.append(make(toy, task, **options))
        most.append(len(alive))
        return alive[-1]

    monkeypatch.setattr(Toy, "make_env", make_env)
    monkeypatch.setattr(ToyEnv, "close", lambda env: (alive.remove(env), close(env))[1])
    evaluated(base, "--tasks all --trials 2 --perturb none light:1")
    assert max(most) == 1 and len(most) == 4 and not alive  # two looked at first, then one a task


def test_processes_give_the_table_of_one(base: Path) -> None:
    options = "--suite reach reach_far --tasks all --perturb none delay:2 light:1"
    alone = evaluated(base, options, "one", sim="helpers.toy_sim:Two")
    (base.parent / "many.py").write_text("from helpers.toy_sim import Toy\nclass Two(Toy):\n"
                                         "    suites = ('reach', 'reach_far')\n")  # fmt: skip
    process = commands.start(
        "eval", "--sim", "many:Two", "--policy", base, "--out", base.parent / "two.json", "--processes", "2",
        *options.split(), path=base.parent,
    )  # fmt: skip
    _, errors = process.communicate(timeout=commands.PATIENCE)
    assert process.returncode == 0, errors
    assert outcomes(json.loads((base.parent / "two.json").read_text())) == outcomes(alone)
    assert alone["trials"] == 36


def test_a_killed_worker_and_a_killed_evaluation_lose_nothing(base: Path) -> None:
    """A worker is killed, its trial is done again; then everything is killed, and the same command goes on."""
    folder = base.parent
    (folder / "mortal_sim.py").write_text(MORTAL)
    words = ("eval", "--sim", "mortal_sim:Mortal", "--policy", base, "--tasks", "all", "--processes", "2")
    alone = evaluated(base, "--tasks all", "one")

    (folder / "mortal").touch()
    process = commands.start(*words, "--out", folder / "two.json", path=folder)
    _, errors = process.communicate(timeout=commands.PATIENCE)
    assert process.returncode == 0, errors
    assert "was ended by SIGKILL" in errors and "done again in another process" in errors
    assert outcomes(json.loads((folder / "two.json").read_text())) == outcomes(alone)

    (folder / "mortal_sim.py").write_text(MORTAL.replace("os.getpid()", "os.getppid()"))
    (folder / "mortal").touch()
    process = commands.start(*words, "--out", folder / "three.json", path=folder)
    process.communicate(timeout=commands.PATIENCE)
    assert process.returncode == -signal.SIGKILL and (folder / "three.trials.jsonl").exists()
    done = (folder / "three.trials.jsonl").read_text().count('"index"')
    process = commands.start(*words, "--out", folder / "three.json", path=folder)
    _, errors = process.communicate(timeout=commands.PATIENCE)
    assert process.returncode == 0, errors
    assert done == 0 or f"{done} of 6 trials are done already" in errors
    assert outcomes(json.loads((folder / "three.json").read_text())) == outcomes(alone)


def test_a_row_an_axis(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluated(base, "--perturb none layout:2 noise:1+delay:1 instruction:3 --trials 2")
    assert [row["perturb"] for row in report["rows"]] == ["none", "layout:2", "noise:1+delay:1", "instruction:3"]
    shifted = evaluated(base, "--states shifted --trials 2", "shifted")
    assert report["per_task"][1]["runs"] == shifted["per_task"][0]["runs"]
    assert "noise:1+delay:1" in capsys.readouterr().out
    for words, named in (("camera:1", "no camera to move"), ("fog:1", "axis one of light")):
        evaluated(base, f"--perturb {words}", "other", status=2)
        assert named in capsys.readouterr().err
    assert not (base.parent / "other.json").exists()


def test_parts_are_merged_and_others_refused(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = evaluated(base, "--tasks all --trials 4", "whole")
    evaluated(base, "--tasks 0 --trials 4", "a")
    evaluated(base, "--tasks 1 --trials 3", "b")
    evaluated(base, "--tasks 1 --first-trial 2 --trials 2", "c")  # trial 2 is in both
    folder = base.parent
    parts = [str(folder / f"{name}.json") for name in "abc"]
    out = folder / "merged.json"
    assert cli.main(["eval", "merge", *parts, "--out", str(out), "--markdown", str(folder / "m.md")]) == 0
    merged = json.loads(out.read_text())
    assert outcomes(merged) == outcomes(whole) and merged["merged_from"] == parts
    assert merged["latency"]["chunks"] > 0 and "4 (" not in capsys.readouterr().err
    again = ["eval", "merge", str(out), parts[0], "--out", str(folder / "again.json")]
    assert cli.main(again) == 0 and outcomes(json.loads((folder / "again.json").read_text())) == outcomes(whole)
    for options, named in (("--states shifted", "states 'shifted'"), ("--protocol patient", "protocol 'patient'"),
                           ("--settle-steps 9", "settle_steps 9")):  # fmt: skip
        evaluated(base, options, "odd")
        assert cli.main(["eval", "merge", parts[0], str(folder / "odd.json"), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert named in error and "only parts of one evaluation can be merged" in error
    lying = json.loads(Path(parts[2]).read_text())
    lying["per_task"][0]["runs"][0]["steps"] += 1
    Path(parts[2]).write_text(json.dumps(lying))
    assert cli.main(["eval", "merge", *parts, "--out", str(out)]) == 2
    assert "another outcome of trial 2 of reach task 1" in capsys.readouterr().err
    Path(parts[2]).write_text('{"successes": 1, "trials": 1}')
    assert cli.main(["eval", "merge", *parts, "--out", str(out)]) == 2
    assert "does not say under which conditions" in capsys.readouterr().err
    assert json.loads(out.read_text()) == merged


def test_failures_are_filmed_and_shown_on_a_sheet(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = base.parent / "films"
    report = evaluated(base, f"--trials 5 --videos {folder} --videos-of failures")
    failed = [run["index"] for run in report["per_task"][0]["runs"] if not run["success"]]
    assert failed == [3, 4]
    films = [f"reach_1_official_{index:03d}.mp4" for index in failed]
    assert sorted(path.name for path in folder.iterdir()) == ["failures_1.png", *films]
    evaluated(base, f"--videos {base}", "other", status=2)
    assert "cannot be written" in capsys.readouterr().err
    evaluated(base, f"--videos {folder} --videos-of some", "other", status=2)
    assert "choose one of all, failures" in capsys.readouterr().err


def test_suites_are_listed_with_their_faults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Toy.tasks

    def tasks(toy: Toy, suite: str) -> Any:
        if suite == "reach_env":
            raise SimulatorError("suite 'reach_env' cannot run: 2 of 2 task files are missing")
        return whole(toy, suite)

    monkeypatch.setattr(Toy, "tasks", tasks)
    monkeypatch.setattr(Toy, "more_suites", lambda toy: ("reach_swap", "reach_env"))
    assert cli.main(["eval", "--sim", NAME, "--list-suites"]) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines[:2] == [["reach", "2"], ["reach_swap", "2"]] and "files are missing" in lines[2][2]
    assert cli.main(["eval", "--sim", NAME]) == 2 and "--policy is required" in capsys.readouterr().err
    assert plan_trials(Toy(), suites=["reach_swap"]).protocol.max_steps == {"reach_swap": 40}
    with pytest.raises(SimulatorError, match="files are missing"):
        plan_trials(Toy(), suites=["reach_env"])


def test_ray_where_it_is_missing(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    monkeypatch.delitem(__import__("sys").modules, "lightwam.sim.ray_crew", raising=False)
    evaluated(base, "--ray auto", status=2)
    assert "the module 'ray' is not installed" in capsys.readouterr().err.splitlines()[-1]
