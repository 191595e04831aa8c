# SPDX-License-Identifier: Apache-2.0
"""`lightwam eval --ray` on a local cluster with two workers. Needs the extra [ray]."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.toy_sim import NAME
from lightwam import cli

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")

#: A toy whose worker kills itself once, at trial 1 of task 1, where a file says so; and that notes who ran what.
MORTAL = """
import os, signal
from pathlib import Path
from helpers.toy_sim import Toy, ToyEnv

HERE = Path(__file__).parent

class Env(ToyEnv):
    def set_state(self, state):
        super().set_state(state)
        with open(HERE / "who", "a") as file:
            file.write(f"{os.getpid()}\\n")
        if self.task.index == 1 and abs(state[2] - 1.1) < 1e-9 and (HERE / "mortal").exists():
            (HERE / "mortal").unlink()
            os.kill(os.getpid(), signal.SIGKILL)

class Mortal(Toy):
    def make_env(self, task, **options):
        return Env(task, options.get("render", True))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that the cluster's workers import from, while the cluster runs."""
    place = tmp_path_factory.mktemp("ray")
    (place / "mortal_sim.py").write_text(MORTAL)
    sys.path.insert(0, str(place))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="lightwam-eval")
        os.environ["RAY_ADDRESS"] = context.address_info["address"]
        yield place
    finally:
        ray.shutdown()
        sys.path.remove(str(place))
        os.environ.pop("RAY_ADDRESS", None)
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def run(folder: Path, base: Path, options: str, out: str) -> dict[str, Any]:
    words = f"eval --sim mortal_sim:Mortal --policy {base} --tasks all --trials 4 --out {folder}/{out}.json {options}"
    assert cli.main(words.split()) == 0
    document: dict[str, Any] = json.loads((folder / f"{out}.json").read_text())
    return document


def test_two_workers_give_the_table_of_one_process_though_one_is_lost(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = folder / "replay.npz"
    assert cli.main(f"train replay --sim {NAME} --state 2 --out {base}".split()) == 0
    alone = run(folder, base, "", "alone")
    (folder / "who").unlink()
    (folder / "mortal").touch()
    films = f"--videos {folder}/films --videos-of failures"
    shared = run(folder, base, f"--ray {os.environ['RAY_ADDRESS']} {films}", "shared")
    for name in ("rows", "successes", "trials"):
        assert shared[name] == alone[name]
    runs = [run for entry in shared["per_task"] for run in entry["runs"]]
    filmed = [run.pop("film")["file"] for run in runs if "film" in run]
    assert filmed == ["reach_0_official_003.mp4", "reach_1_official_003.mp4"]
    assert runs == [run for entry in alone["per_task"] for run in entry["runs"]]
    assert not (folder / "mortal").exists() and "a Ray worker was lost" in caplog.text
    workers = set((folder / "who").read_text().split())
    assert len(workers) >= 3 and str(os.getpid()) not in workers  # two, and one in place of the lost one
    assert sorted(path.name for path in (folder / "films").iterdir()) == [
        "failures_1.png", "reach_0_official_003.mp4", "reach_1_official_003.mp4"
    ]  # fmt: skip


def test_a_policy_that_the_worker_has_not_travels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightwam.sim.crew import Assignment, PolicyFile
    from lightwam.sim.films import Films
    from lightwam.sim.plan import plan_trials
    from lightwam.sim.ray_crew import RayCrew
    from lightwam.sim.registry import load_simulator
    from lightwam.sim.reports import content_hash

    file, plan = folder / "replay.npz", plan_trials(load_simulator("mortal_sim:Mortal"), trials=2)
    to = Assignment("mortal_sim:Mortal", PolicyFile(file, content_hash(file)), plan, Films())
    crew = RayCrew(to, os.environ["RAY_ADDRESS"])
    file.rename(folder / "elsewhere.npz")
    try:
        assert [trial.success for _, trial in crew.do(list(plan.jobs())) if trial] == [True, True]
    finally:
        (folder / "elsewhere.npz").rename(file)
