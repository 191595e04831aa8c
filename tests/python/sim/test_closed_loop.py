# SPDX-License-Identifier: Apache-2.0
"""The trial loop, plans of trials, and evaluation and demo as a whole, on the toy simulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from helpers.toy_sim import NAME, SIZE, Toy, ToyEnv
from lightwam import cli
from lightwam.errors import ConfigError, SimulatorError
from lightwam.runtime import ActionChunk
from lightwam.sim.closed_loop import Trial, TrialRunner, run_trial, start_state
from lightwam.sim.plan import plan_trials
from lightwam.sim.registry import SIMULATORS, load_simulator
from lightwam.sim.reports import latency_summary, stage_summary
from lightwam.sim.video import STRIP_HEIGHT

FIGURES = {"successes", "trials", "interval_95", "latency", "stages"}
HEADING = {"policy", "policy_sha256", "runs_on", "protocol", "states", "suite", "tasks", "executed_steps_a_chunk"}
REPORT = HEADING | FIGURES | {"beside", "environment"}


class CountingPolicy:
    """Goes along x at full speed."""

    replan_steps = 8

    def __init__(self) -> None:
        self.chunks, self.instruction = 0, ""

    def set_instruction(self, instruction: str, /) -> None:
        self.instruction = instruction

    def reset(self) -> None:
        self.chunks = 0

    def infer(self, observation: Any, /) -> ActionChunk:
        self.chunks += 1
        actions = np.tile(np.array([1, 0, -1], np.float32), (16, 1))
        return ActionChunk(actions, {"vae": 0.002, "backbone": float(self.chunks)}, 8)


class Pictures:
    """Keeps which pictures of a trial are taken."""

    def __init__(self, env: ToyEnv) -> None:
        self.env = env
        self.seen: list[tuple[int, int]] = []

    def add(self, picture_HWC: Any, chunk_step: int, /) -> None:
        assert picture_HWC.shape == (SIZE, SIZE, 3)
        self.seen.append((self.env.steps, chunk_step))


def trial(length: float, pictures: bool = False) -> tuple[Trial, ToyEnv, Pictures]:
    toy = Toy()
    env = toy.make_env(toy.task("reach", 0))
    sink, state = Pictures(env), np.array([0, 0, 0.1 * length, 0])
    result = run_trial(
        env, CountingPolicy(), toy.protocol("quick"), state, 5, add_picture=sink.add if pictures else None
    )
    return result, env, sink


def test_a_success_ends_the_trial_and_only_chunk_ends_are_rendered() -> None:
    result, env, _ = trial(length=20)
    assert (result.index, result.success, result.steps, len(result.latencies)) == (5, True, 20, 3)
    assert env.calls == ["reset", "set_state", "settle 2"]
    assert env.rendered == 2


def test_the_step_limit_ends_a_failure() -> None:
    result, _, _ = trial(length=10_000)
    assert (result.success, result.steps, len(result.latencies)) == (False, 40, 5)


def test_frames_come_at_the_stride_and_carry_the_chunk_step() -> None:
    _, _, pictures = trial(length=10, pictures=True)
    assert pictures.seen == [(0, 0), (2, 2), (4, 4), (6, 6), (8, 8), (10, 2)]


def test_summaries_leave_out_the_warming_chunk() -> None:
    trials = [Trial(0, True, 8, [9.0, 0.010, 0.020], [{"vae": 0.001}, {"vae": 0.003}]), Trial(1, False, 8, [0.030])]
    latency = latency_summary(trials)
    assert latency["chunks"] == 3 and latency["p50_ms"] == pytest.approx(20.0)
    assert latency["p50_ms"] <= latency["p95_ms"] <= latency["p99_ms"] <= 30.0
    assert stage_summary(trials) == {"vae": 2.0}
    assert latency_summary([]) == {"chunks": 0}


def test_start_states_have_names_and_limits() -> None:
    toy = Toy()
    env = toy.make_env(toy.task("reach", 0))
    official = env.official_states()
    np.testing.assert_array_equal(start_state(env, official, 1, "official"), official[1])
    shifted = start_state(env, official, 1, "shifted")
    np.testing.assert_array_equal(shifted, start_state(env, official, 1, "shifted"))
    assert (shifted[2:] != official[1][2:]).all()
    with pytest.raises(SimulatorError, match="there are 5"):
        start_state(env, official, 5, "official")


def test_plans_take_the_simulators_and_the_protocols_own() -> None:
    plan = plan_trials(Toy())
    assert [task.index for task in plan.tasks] == [1] and plan.indices == range(3) and plan.protocol.name == "quick"
    plan = plan_trials(Toy(), suites=("reach",), tasks=(0, 1), trials=2, first_trial=3, protocol="patient")
    assert [task.name for task in plan.tasks] == ["reach_0", "reach_1"] and plan.indices == range(3, 5)
    for options, named in (
        ({"states": "sideways"}, "sideways"), ({"protocol": "mine"}, "quick, patient"), ({"tasks": ()}, "nothing"),
        ({"trials": 0}, "trials 0"), ({"first_trial": -1}, "first trial -1"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=named):
            plan_trials(Toy(), **options)  # type: ignore[arg-type]
    with pytest.raises(SimulatorError, match="choose one of reach"):
        plan_trials(Toy(), suites=("moon",))
    with pytest.raises(SimulatorError, match="choose 0 to 1"):
        plan_trials(Toy(), tasks=(2,))


def test_one_environment_serves_all_trials_and_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    toy, policy = Toy(), CountingPolicy()
    env = toy.make_env(toy.task("reach", 1))
    monkeypatch.setattr(toy, "make_env", lambda task: env)
    plan = plan_trials(toy)
    runner = TrialRunner(toy, policy, plan)
    trials = [runner.run(job) for job in plan.jobs()]
    runner.close()
    each = [(f"seed {1 + index}", "reset", "set_state", "settle 2") for index in range(3)]
    assert env.calls == [call for calls in each for call in calls] + ["close"]
    assert policy.instruction == "reach target 1"
    assert [(t.index, t.success, t.steps) for t in trials] == [(0, True, 10), (1, True, 11), (2, True, 12)]


def test_simulators_have_names() -> None:
    assert load_simulator("libero").name == "libero" and "libero" in SIMULATORS
    assert load_simulator(NAME).name == "toy"
    for name, named in (("moon", "choose libero"), ("helpers.toy_sim:Sun", "Sun"), ("helpers.nothing:Sun", "nothing"),
                        ("helpers.toy_sim:Unfinished", "abstract")):  # fmt: skip
        with pytest.raises(ConfigError, match=named):
            load_simulator(name)


def test_the_verbs_evaluate_and_film_any_simulator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, report, videos = tmp_path / "replay.npz", tmp_path / "report.json", tmp_path / "videos"
    assert cli.main(f"train replay --sim {NAME} --state 2 --out {base}".split()) == 0  # 12 steps, 8 of a chunk
    words = f"eval --sim {NAME} --policy {base} --tasks 0 1 --out {report} --videos {videos}"
    assert cli.main(words.split()) == 0
    first = json.loads(report.read_text())
    assert set(first) == REPORT | {"settle_steps", "protocol_values", "conditions", "rows", "per_task", "videos"}
    about = [first[key] for key in ("suite", "tasks", "protocol", "states")]
    assert about == ["reach", [0, 1], "quick", "official"]
    assert (first["successes"], first["trials"], first["settle_steps"]) == (6, 6, 2)
    assert set(first["per_task"][0]) == {"suite", "task", "perturb", "instruction", "runs"} | FIGURES
    assert [run["steps"] for run in first["per_task"][1]["runs"]] == [10, 11, 12]
    assert first["environment"]["renderer"] is None and "numpy" in first["environment"]["versions"]
    assert sorted(path.name for path in videos.iterdir()) == [
        f"reach_{task}_official_{index:03d}.mp4" for task in (0, 1) for index in range(3)
    ]
    again = f"eval --sim {NAME} --policy {base} --states shifted --beside {report} --out {tmp_path}/2.json"
    assert cli.main(again.split()) == 0
    second = json.loads((tmp_path / "2.json").read_text())
    assert second["beside"][0]["successes"] == 6 and second["successes"] < 3
    assert "6 of 6" in capsys.readouterr().out

    out = tmp_path / "demo"
    assert cli.main(f"demo --sim {NAME} --policy {base} --out {out} --episodes 2 --states official".split()) == 0
    shown = json.loads((out / "report.json").read_text())
    assert set(shown) == REPORT | {"instruction", "runs"}
    assert (shown["instruction"], shown["successes"], shown["beside"]) == ("reach target 1", 2, [])
    with av.open(str(out / "rollout.mp4")) as film, av.open(str(out / "contact_sheet.png")) as sheet:
        assert len(list(film.decode(video=0))) == (1 + 5 + 8) + (
            1 + 5 + 8
        )  # start, every second step, the outcome held
        (picture,) = sheet.decode(video=0)
        assert (picture.height, picture.width) == (2 * (SIZE + STRIP_HEIGHT) // 2, 8 * SIZE // 2)
