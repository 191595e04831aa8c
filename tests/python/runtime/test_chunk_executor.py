# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from helpers.engine_files import TASK, observation
from lightwam.errors import ArgumentError, InstructionError
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


BAD_STEPS = [0, -1, 2.0, 2.5, float("nan"), float("inf"), True, False, "2", None, [2], np.float32(2), np.array([2]), 1j]


@pytest.mark.parametrize("steps", [steps for steps in BAD_STEPS if steps is not None])
def test_replan_steps_must_be_a_whole_positive_number(steps: Any) -> None:
    with pytest.raises(ArgumentError, match=r"replan_steps is .*; expected a whole number of at least 1") as caught:
        ChunkExecutor(Counter(2), replan_steps=steps)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)


def test_replan_steps_end_at_the_policys_horizon(policy: Policy) -> None:
    assert policy.horizon == 4
    with pytest.raises(ArgumentError, match="replan_steps is 5; expected a whole number from 1 to 4, the chunk's"):
        ChunkExecutor(policy, 5)
    executor = ChunkExecutor(policy, np.int64(4))  # type: ignore[arg-type]
    seen = observation()
    chunk = policy.infer(seen).actions
    np.testing.assert_array_equal([executor.step(seen) for _ in range(4)], chunk)
    assert executor.needs_observation


@pytest.mark.parametrize("steps", BAD_STEPS)
def test_a_chunks_own_figure_is_checked_too(steps: Any) -> None:
    executor = ChunkExecutor(Counter(steps))
    for _ in range(2):
        with pytest.raises(ArgumentError, match="the chunk's replan_steps is"):
            executor.step({})
    assert executor.chunk is None


@pytest.mark.parametrize("policy", [None, "policy.lwam", Counter, {"infer": 1}])
def test_what_cannot_infer_is_refused(policy: Any) -> None:
    with pytest.raises(ArgumentError, match=r"has no infer; give a lightwam\.runtime\.Policy"):
        ChunkExecutor(policy)


def test_a_chunk_without_actions_is_refused() -> None:
    class Empty:
        def infer(self, observation: Mapping[str, Any]) -> ActionChunk:
            return ActionChunk(np.empty((0, 3), np.float32), {}, 1)

    with pytest.raises(ArgumentError, match="has no actions"):
        ChunkExecutor(Empty()).step({})


def test_a_new_instruction_asks_again_at_once(policy: Policy) -> None:
    executor = ChunkExecutor(policy, 4)
    seen = observation()
    executor.step(seen)
    old = executor.chunk
    policy.set_instruction(TASK)  # the same one again
    assert not executor.needs_observation
    policy.set_instruction("open the drawer")
    assert executor.needs_observation
    action = executor.step(seen)
    assert executor.chunk is not old and not executor.needs_observation
    np.testing.assert_array_equal(action, policy.infer(seen).actions[0])
    executor.step(seen)
    with pytest.raises(InstructionError):
        policy.set_instruction("...")  # refused, so the one before stays
    assert not executor.needs_observation


def test_an_instruction_that_changes_during_a_chunk_asks_again() -> None:
    class Talked(Counter):
        instruction = "a"

        def infer(self, observation: Mapping[str, Any]) -> ActionChunk:
            if self.calls == 0:
                self.instruction = "b"  # another thread, while the chunk is computed
            return super().infer(observation)

    executor = ChunkExecutor(Talked(4))
    assert run(executor, 6) == [0, 10, 11, 12, 13, 20]


def test_the_instruction_is_read_while_another_thread_computes(policy: Policy) -> None:
    """A step within a chunk must not wait for a chunk of another thread."""
    seen, stop, read = observation(size=(400, 400)), threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            read.append(policy.instruction)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(20):
        policy.infer(seen)
    stop.set()
    reader.join()
    assert set(read) == {TASK}


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
