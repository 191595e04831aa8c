# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from helpers.engine_files import observation
from lightwam.runtime import ActionChunk, ChunkExecutor, Policy


class Counter:
    """Answers chunk k with actions 10 k, 10 k + 1, ..."""

    def __init__(self, replan_steps: int) -> None:
        self.calls = 0
        self.replan_steps = replan_steps
        self.failures = 0

    def infer(self, observation: Mapping[str, Any]) -> ActionChunk:
        if self.failures > 0:
            self.failures -= 1
            raise RuntimeError("no")
        actions = np.arange(5, dtype=np.float32)[:, None] + 10 * self.calls
        self.calls += 1
        return ActionChunk(actions, {}, self.replan_steps)


def run(executor: ChunkExecutor, steps: int) -> list[float]:
    return [float(executor.step({})[0]) for _ in range(steps)]


def test_replans_after_the_chunks_own_figure() -> None:
    assert run(ChunkExecutor(Counter(2)), 5) == [0, 1, 10, 11, 20]


def test_replans_after_the_figure_given() -> None:
    assert run(ChunkExecutor(Counter(2), replan_steps=3), 5) == [0, 1, 2, 10, 11]


def test_never_runs_past_the_horizon() -> None:
    assert run(ChunkExecutor(Counter(2), replan_steps=9), 7) == [0, 1, 2, 3, 4, 10, 11]


def test_reset_forgets_the_rest() -> None:
    executor = ChunkExecutor(Counter(4))
    run(executor, 2)
    executor.reset()
    assert executor.chunk is None
    assert run(executor, 2) == [10, 11]


def test_observation_is_made_only_when_needed() -> None:
    executor = ChunkExecutor(Counter(3))
    made: list[bool] = []
    for _ in range(7):
        needed = executor.needs_observation
        count = len(made)
        executor.step(lambda: (made.append(True), {})[1])
        assert (len(made) > count) == needed
    assert len(made) == 3


def test_a_failed_step_asks_again() -> None:
    policy = Counter(2)
    executor = ChunkExecutor(policy)
    run(executor, 2)
    policy.failures = 1
    with pytest.raises(RuntimeError):
        executor.step({})
    assert run(executor, 2) == [10, 11]


def test_replan_must_be_positive() -> None:
    with pytest.raises(ValueError, match="replan_steps is 0"):
        ChunkExecutor(Counter(2), replan_steps=0)


def test_the_old_names_answer_and_warn(policy: Policy) -> None:
    for read, now in (
        (lambda: policy.replan, policy.replan_steps),
        (lambda: policy.run_path, policy.execution_info),
        (lambda: policy.infer(observation()).replan, policy.replan_steps),
    ):
        with pytest.warns(DeprecationWarning, match="is now called"):
            assert read() == now
    with pytest.warns(DeprecationWarning, match="replan is now called replan_steps") as seen:
        assert run(ChunkExecutor(Counter(2), replan=3), 5) == [0, 1, 2, 10, 11]
    assert seen[0].filename == __file__
