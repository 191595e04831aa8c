# SPDX-License-Identifier: Apache-2.0
"""Threads: Python's lock is released, policies at once do not disturb each other, processors are respected."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.engine_files import TASK, observation, small_engine, write_engine
from lightwam.assets import bundled_engine
from lightwam.errors import ObservationError
from lightwam.runtime import Policy, _engine


@pytest.fixture
def beats() -> Iterator[list[int]]:
    """A counter that another Python thread raises whenever it gets Python's lock.

    No thread is asked to give the lock up meanwhile: the other thread runs only when this one releases it by itself.
    """
    count = [0]
    stop = threading.Event()

    def beat() -> None:
        while not stop.is_set():
            count[0] += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


def another_thread_runs_during(call: Callable[[], object], beats: list[int]) -> bool:
    """Tries many times: a short call may be over before the system runs the other thread.

    Other releases (a collected object that closes a file) give the other thread a beat or two, never ten.
    """
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        before = beats[0]
        call()
        if beats[0] >= before + 10:
            return True
    return False


def test_the_lock_is_released_in_infer(beats: list[int]) -> None:
    policy = Policy(bundled_engine(), threads=1, unfamiliar="ignore")
    policy.set_instruction("pick it up")
    cameras = [camera["name"] for camera in policy.metadata["policy"]["cameras"]]
    images = {name: np.zeros((64, 64, 3), np.uint8) for name in cameras}
    state = np.zeros(policy.metadata["policy"]["state_width"], np.float32)
    actions = np.empty(policy._actions_shape, np.float32)
    seconds = np.empty(len(_engine.STAGES) + 1)
    engine = policy._engine
    assert another_thread_runs_during(lambda: engine.infer(images, None, state, actions, seconds), beats)


def test_the_lock_is_released_in_set_instruction(beats: list[int]) -> None:
    engine = Policy(bundled_engine(), threads=1, unfamiliar="ignore")._engine
    texts = iter(f"pick up the thing number {i}" for i in range(10**9))  # none of them twice: each is computed

    def many_instructions() -> None:  # one is over in half a millisecond, before a busy system wakes the other thread
        for _ in range(100):
            engine.set_instruction(next(texts))

    assert another_thread_runs_during(many_instructions, beats)


def test_the_lock_is_released_while_loading(beats: list[int]) -> None:
    path = os.fsencode(bundled_engine())
    assert another_thread_runs_during(lambda: _engine.Policy(path, "cpu", 1, "auto"), beats)
    assert another_thread_runs_during(lambda: _engine.verify(path), beats)


def test_policies_at_once(tmp_path: Path) -> None:
    """Each from its own Python thread, sharing the processors: the same bits as in turn, errors included."""
    engines = [small_engine(), small_engine(images=False, text_encoder=False), small_engine()]
    engines[2].tensors["query.weight"] *= np.float32(2.0)
    policies = [Policy(write_engine(tmp_path / f"{i}.lwam", engine), threads=i + 1) for i, engine in enumerate(engines)]
    seen = [observation(), observation(images=False), observation()]
    for policy in policies:
        policy.set_instruction(TASK)
    expected = [policy.infer(o).actions for policy, o in zip(policies, seen, strict=True)]
    right = [0, 0, 0]

    def work(index: int) -> None:
        for turn in range(100):
            if turn % 10 == 3:
                with pytest.raises(ObservationError):
                    policies[index].infer({**seen[index], "state": np.zeros(2, np.float32)})
            right[index] += np.array_equal(policies[index].infer(seen[index]).actions, expected[index])

    workers = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert right == [100, 100, 100]


def test_more_threads_than_processors_warn_and_work(engine_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    few = Policy(engine_path, threads=1)
    many = len(os.sched_getaffinity(0)) + 3
    with caplog.at_level(logging.WARNING, "lightwam.runtime"):
        policy = Policy(engine_path, threads=many)
    assert f"threads is {many}, but this process may use" in caplog.text
    policy.set_instruction(TASK)
    few.set_instruction(TASK)
    np.testing.assert_array_equal(policy.infer(observation()).actions, few.infer(observation()).actions)


def test_the_affinity_mask_is_respected(engine_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert Policy(engine_path)._engine.threads == 1
    finally:
        os.sched_setaffinity(0, before)
