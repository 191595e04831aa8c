# SPDX-License-Identifier: Apache-2.0
"""Corrections: how long the policy drives before the expert takes over, on stand-ins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lightwam.data.episode_files import Episode
from lightwam.sim.libero import corrections
from lightwam.sim.libero.corrections import LONGEST_POLICY_STEPS, CorrectionRunner
from lightwam.sim.policies import Chunk


class StandInEnv:
    """Solves itself after `solved_after` steps of the policy."""

    def __init__(self, solved_after: int = 10**6) -> None:
        self.task = SimpleNamespace(instruction="pick")
        self.solved_after, self.steps, self.renders = solved_after, 0, 0

    def set_state(self, state_N: Any) -> None:
        self.steps = 0

    def settle(self, steps: int) -> None:
        self.renders += 1

    def observation(self) -> dict[str, Any]:
        return {}

    def step(self, action_A: Any, *, render: bool = False) -> bool:
        self.steps += 1
        self.renders += render
        return self.steps >= self.solved_after

    def succeeded(self) -> bool:
        return self.steps >= self.solved_after


class StandInPolicy:
    replan_steps = 8

    def __init__(self) -> None:
        self.instruction, self.chunks = "", 0

    def set_instruction(self, text: str, /) -> None:
        self.instruction = text

    def reset(self) -> None:
        self.chunks = 0

    def infer(self, observation: Any, /) -> Chunk:
        self.chunks += 1
        return Chunk(np.zeros((16, 7), np.float32))


@pytest.fixture
def make_runner(monkeypatch: pytest.MonkeyPatch) -> Any:
    class StandInScenarios:
        def __init__(self, *_: Any) -> None:
            pass

        def run_expert(self, kind: str, rng: Any) -> Episode:
            return Episode("pick", kind)

    monkeypatch.setattr(corrections, "ScenarioRunner", StandInScenarios)
    monkeypatch.setattr(corrections, "random_state", lambda *_: np.zeros(3))
    return lambda env, policy: CorrectionRunner(env, policy)


def test_the_policy_drives_for_a_while_and_replans(make_runner: Any) -> None:
    env, policy = StandInEnv(), StandInPolicy()
    runner = make_runner(env, policy)
    assert policy.instruction == "pick"
    for seed in range(20):
        episode = runner.record("correction", np.random.default_rng(seed))
        steps = episode.info["policy_steps"]
        assert episode.kind == "correction" and 8 <= steps < LONGEST_POLICY_STEPS
        assert env.steps == steps and policy.chunks == -(-steps // policy.replan_steps)


def test_nothing_is_recorded_where_the_policy_needed_no_correction(make_runner: Any) -> None:
    assert (
        make_runner(StandInEnv(solved_after=1), StandInPolicy()).record("correction", np.random.default_rng(0)) is None
    )
