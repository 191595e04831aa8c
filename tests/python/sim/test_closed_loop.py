# SPDX-License-Identifier: Apache-2.0
"""The trial loop, on a stand-in environment that counts what is asked of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from lightwam.errors import SimulatorError
from lightwam.sim.closed_loop import Trial, latency_summary, run_trial, stage_summary, start_state
from lightwam.sim.libero.env import LiberoEnv
from lightwam.sim.policies import Chunk
from lightwam.sim.protocols import protocol


class StandInEnv:
    """Succeeds after `length` steps; images may be read only after a rendered step."""

    def __init__(self, length: int) -> None:
        self.task = SimpleNamespace(suite="libero_object", index=0, instruction="pick")
        self.length, self.steps, self.rendered, self.fresh = length, 0, 0, False
        self.calls: list[str] = []

    def reset(self) -> None:
        self.calls.append("reset")
        self.steps = 0

    def set_state(self, state_N: Any) -> None:
        self.calls.append("set_state")

    def settle(self, steps: int) -> None:
        self.calls.append(f"settle {steps}")
        self.fresh = True

    def step(self, action_A: Any, *, render: bool = False) -> bool:
        self.steps += 1
        self.rendered += render
        self.fresh = render
        return self.steps >= self.length

    def observation(self) -> dict[str, Any]:
        assert self.fresh, "images were read after a step that did not render"
        return {"images": {}, "state": np.zeros(8)}


class CountingPolicy:
    replan_steps = 8

    def __init__(self) -> None:
        self.chunks = 0

    def set_instruction(self, instruction: str) -> None:
        pass

    def reset(self) -> None:
        self.chunks = 0

    def infer(self, observation: dict[str, Any]) -> Chunk:
        self.chunks += 1
        return Chunk(np.zeros((16, 7), np.float32), {"vae": 0.002, "backbone": float(self.chunks)})


def trial(length: int, **options: Any) -> tuple[Trial, StandInEnv]:
    env = StandInEnv(length)
    result = run_trial(cast(LiberoEnv, env), CountingPolicy(), protocol("paper"), np.zeros(3), 5, **options)
    return result, env


def test_a_success_ends_the_trial_and_only_chunk_ends_are_rendered() -> None:
    result, env = trial(length=20)
    assert (result.index, result.success, result.steps, len(result.latencies)) == (5, True, 20, 3)
    assert env.calls == ["reset", "set_state", "settle 30"]
    assert env.rendered == 2


def test_the_step_limit_ends_a_failure() -> None:
    result, _ = trial(length=10_000)
    assert (result.success, result.steps, len(result.latencies)) == (False, 400, 50)


def test_frames_come_at_the_stride_and_carry_the_chunk_step() -> None:
    seen: list[tuple[int, int]] = []
    trial(length=10, frame_sink=lambda observation, step, chunk_step: seen.append((step, chunk_step)))
    assert seen == [(0, 0), (2, 2), (4, 4), (6, 6), (8, 8), (10, 2)]


def test_summaries_leave_out_the_warming_chunk() -> None:
    trials = [Trial(0, True, 8, [9.0, 0.010, 0.020], [{"vae": 0.001}, {"vae": 0.003}]), Trial(1, False, 8, [0.030])]
    latency = latency_summary(trials)
    assert latency["chunks"] == 3 and latency["p50_ms"] == pytest.approx(20.0)
    assert latency["p50_ms"] <= latency["p95_ms"] <= latency["p99_ms"] <= 30.0
    assert stage_summary(trials) == {"vae": 2.0}
    assert latency_summary([]) == {"chunks": 0}


def test_start_states_have_names_and_limits() -> None:
    states = np.zeros((2, 4))
    env = cast(LiberoEnv, None)
    assert start_state(env, states, 1, "official") is not None
    with pytest.raises(SimulatorError, match="sideways"):
        start_state(env, states, 0, "sideways")
    with pytest.raises(SimulatorError, match="there are 2"):
        start_state(env, states, 2, "official")
