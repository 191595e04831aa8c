# SPDX-License-Identifier: Apache-2.0
"""Corrections: how long the policy drives before the expert takes over, on the toy environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.toy_sim import Toy, ToyEnv
from lightwam.data.episode_files import Episode
from lightwam.runtime import ActionChunk
from lightwam.sim.libero import corrections
from lightwam.sim.libero.corrections import LONGEST_POLICY_STEPS, CorrectionRunner
from lightwam.sim.libero.placements import NOMINAL


def toy_env() -> ToyEnv:
    toy = Toy()
    return toy.make_env(toy.task("reach", 0))


class StandingPolicy:
    replan_steps = 8

    def __init__(self) -> None:
        self.instruction, self.chunks = "", 0

    def set_instruction(self, text: str, /) -> None:
        self.instruction = text

    def reset(self) -> None:
        self.chunks = 0

    def infer(self, observation: Any, /) -> ActionChunk:
        self.chunks += 1
        return ActionChunk(np.zeros((16, 3), np.float32), {}, self.replan_steps)


@pytest.fixture
def make_runner(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(target: float) -> CorrectionRunner:
        class Scenarios:
            def __init__(self, env: Any, noise: Any, spread: Any, any_target: bool) -> None:
                assert spread is NOMINAL and not any_target
                self.env = env

            def start(self, rng: Any) -> None:
                self.env.set_state(np.array([0.0, 0.0, target, 0.0]))

            def run_expert(self, kind: str, rng: Any) -> Episode:
                return Episode("pick", kind)

        monkeypatch.setattr(corrections, "ScenarioRunner", Scenarios)
        return CorrectionRunner(toy_env(), StandingPolicy(), NOMINAL)  # type: ignore[arg-type]

    return make


def test_the_policy_drives_for_a_while_and_replans(make_runner: Any) -> None:
    runner = make_runner(target=1.0)
    env, policy = runner.env, runner.policy
    for seed in range(20):
        episode = runner.record("correction", np.random.default_rng(seed))
        steps = episode.info["policy_steps"]
        assert episode.kind == "correction" and 8 <= steps < LONGEST_POLICY_STEPS
        assert policy.instruction == "reach target 0" and env.steps == steps
        assert policy.chunks == -(-steps // policy.replan_steps)


def test_nothing_is_recorded_where_the_policy_needed_no_correction(make_runner: Any) -> None:
    runner = make_runner(target=0.0)
    assert runner.record("correction", np.random.default_rng(0)) is None
    assert runner.env.steps == 1
