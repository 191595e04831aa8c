# SPDX-License-Identifier: Apache-2.0
"""`lightwam eval --ray` against a stand-in of Ray: what is shared, lost, sent, refused. (test_ray.py: the real one.)"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from helpers.toy_ray import ToyRay
from helpers.toy_sim import NAME, ToyEnv
from lightwam import cli
from lightwam.errors import SimulatorError


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> ToyRay:
    cluster = ToyRay()
    cluster.install(monkeypatch)
    return cluster


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """An evaluation of eight trials, of which the last of each task fails."""
    base = tmp_path / "replay.npz"
    assert cli.main(f"train replay --sim {NAME} --state 2 --out {base}".split()) == 0
    return f"eval --sim {NAME} --policy {base} --tasks all --trials 4 --out {tmp_path}/report.json".split()


def report(words: list[str], *more: str) -> dict[str, Any]:
    assert cli.main([*words, *more]) == 0
    document: dict[str, Any] = json.loads(Path(words[-1]).read_text())
    return document


def test_the_table_is_that_of_one_process_though_workers_are_lost(
    cluster: ToyRay, words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = report(words)
    cluster.lose = 2
    with caplog.at_level(logging.WARNING):
        shared = report(words, "--ray", "auto", "--videos", f"{tmp_path}/films", "--videos-of", "failures")
    runs = [run for entry in shared["per_task"] for run in entry["runs"]]
    filmed = [run.pop("film")["file"] for run in runs if "film" in run]
    assert filmed == ["reach_0_official_003.mp4", "reach_1_official_003.mp4"]
    assert runs == [run for entry in alone["per_task"] for run in entry["runs"]]
    assert shared["rows"] == alone["rows"] and "a Ray worker was lost (RayError) at the check of reach_" in caplog.text
    assert cluster.hired == 4 + 2 and cluster.killed == 2 + 2  # lost ones are replaced; the rest ends with each phase
    assert sorted(path.name for path in (tmp_path / "films").iterdir()) == [
        "failures_1.png", "reach_0_official_003.mp4", "reach_1_official_003.mp4"
    ]  # fmt: skip


def test_work_that_is_lost_again_and_again_is_an_error(
    cluster: ToyRay, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.lose = 100
    assert cli.main([*words, "--ray", "auto"]) == 2
    assert "at the check of reach_0, 3 times: look at the cluster" in capsys.readouterr().err


def test_errors_of_the_simulator_arrive(
    cluster: ToyRay, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def set_state(env: ToyEnv, state_N: Any) -> None:
        raise SimulatorError("the arm fell off")

    monkeypatch.setattr(ToyEnv, "set_state", set_state)
    assert cli.main([*words, "--ray", "auto"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("SimulatorError: the arm fell off")


@pytest.mark.parametrize(
    ("differs", "named"),
    [
        ({"renderer": "egl"}, "machine b of the Ray cluster has other renderer: egl, here None"),
        ({"versions": {"numpy": "1"}}, "has other versions"),
    ],
)
def test_another_machine_is_refused_by_name(
    cluster: ToyRay, words: list[str], capsys: pytest.CaptureFixture[str], differs: dict[str, Any], named: str
) -> None:
    cluster.describes["b"] = differs
    assert cli.main([*words, "--ray", "auto"]) == 2
    assert named in capsys.readouterr().err and cluster.hired == 0


def test_a_cluster_without_cpus(cluster: ToyRay, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cluster.cpus = 0
    assert cli.main([*words, "--ray", "auto"]) == 2
    assert "has no CPU to give" in capsys.readouterr().err


def test_no_cluster_is_one_line(
    cluster: ToyRay, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert cli.main([*words, "--ray", "127.0.0.1:1"]) == 2
    assert "no Ray cluster at --ray 127.0.0.1:1" in capsys.readouterr().err.splitlines()[-1]


def test_a_policy_that_a_worker_has_not_travels(cluster: ToyRay, words: list[str], tmp_path: Path) -> None:
    from lightwam.sim.crew import Assignment, PolicyFile
    from lightwam.sim.films import Films
    from lightwam.sim.plan import plan_trials
    from lightwam.sim.ray_crew import RayCrew
    from lightwam.sim.registry import load_simulator
    from lightwam.sim.reports import content_hash

    file, plan = tmp_path / "replay.npz", plan_trials(load_simulator(NAME), trials=2)
    crew = RayCrew(Assignment(NAME, PolicyFile(file, content_hash(file)), plan, Films()), "auto")
    for change in (lambda: file.write_bytes(b"another"), file.unlink):
        change()
        assert [trial.success for _, trial in crew.do(list(plan.jobs())) if trial] == [True, True]
