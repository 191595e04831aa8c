# SPDX-License-Identifier: Apache-2.0
"""A policy and its process: forks and exits at any moment, and copies. The long runs: tests/stress/processes.py."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import lightwam
from helpers.standin import run_script
from lightwam.errors import DeviceError
from lightwam.runtime import ChunkExecutor, Policy

STRESS = Path(__file__).parents[2] / "stress" / "processes.py"


@pytest.mark.parametrize(("what", "count"), [("forks", 20), ("exits", 6)])
def test_forks_and_exits_at_any_moment(engine_path: Path, what: str, count: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(lightwam.__file__).parents[1])}
    command = [sys.executable, str(STRESS), what, "--count", str(count), "--engine", str(engine_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_object_that_infers_when_it_goes(engine_path: Path) -> None:
    """At the interpreter's very end, while a daemon thread uses the same policy."""
    script = f"""
import sys, threading, numpy as np
sys.argv = ["x"]
from lightwam.runtime import Policy
policy = Policy({str(engine_path)!r}, threads=2)
policy.set_instruction(policy.instructions[0])
section = policy.metadata["policy"]
seen = {{"images": {{c["name"]: np.zeros((8, 8, 3), np.uint8) for c in section["cameras"]}},
         "state": np.zeros(section["state_width"], np.float32)}}
def loop():
    while True:
        policy.infer(seen)
class Last:
    def __del__(self, policy=policy, seen=seen):
        policy.infer(seen)
last = Last()
threading.Thread(target=loop, daemon=True).start()
sys.exit(5)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(lightwam.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 5, done.stderr


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_copies_are_refused_with_the_remedy(policy: Policy, copied: Callable[[object], object]) -> None:
    with pytest.raises(DeviceError, match=r"pass the path .* Policy\('.*small\.lwam'\)"):
        copied(policy)
    with pytest.raises(DeviceError, match="pass the path of its engine file on"):
        copied(policy._engine)
    if copied is not copy.copy:  # a shallow copy shares the policy, as it should
        with pytest.raises(DeviceError, match="pass the path"):
            copied(ChunkExecutor(policy))


def use(policy: Policy) -> None:
    policy.reset()


def test_a_policy_cannot_be_an_argument_of_another_process(policy: Policy) -> None:
    process = multiprocessing.get_context("spawn").Process(target=use, args=(policy,))
    with pytest.raises(DeviceError, match="pass the path"):
        process.start()


GPU = """
import os, sys, threading
sys.path.insert(0, sys.argv[3])
from helpers.standin import Standin
from lightwam.errors import DeviceError
from lightwam.runtime import Policy
standin = Standin(sys.argv[1])
standin.set_device(87)
policy = Policy(sys.argv[2], device="cuda")
child = os.fork()
if child == 0:
    said = []
    for call in (lambda: policy.set_instruction("x"), lambda: Policy(sys.argv[2], device="cuda")):
        try:
            call()
        except DeviceError as error:
            said.append(str(error))
    automatic = Policy(sys.argv[2], device="auto")
    said += [automatic.device, automatic.execution_info]
    print(*said, sep="\\n", flush=True)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), policy.device)
"""


def test_cuda_and_a_fork(standin_library: Path) -> None:
    engine = Path(__file__).parents[2] / "data/engines/small_gpu.lwam"
    said = run_script(GPU, standin_library, engine, Path(__file__).parents[1]).splitlines()
    assert "was opened before this process was forked" in said[0]
    assert "CUDA was started before this process was forked" in said[1] and "'spawn'" in said[1]
    assert said[2] == "cpu" and "CUDA was started before this process was forked" in said[3]
    assert said[4] == "0 cuda"


def test_a_pool_of_processes(engine_path: Path) -> None:
    """multiprocessing's way before Python 3.14: children open their own policies, and the pool ends."""
    kept = Policy(engine_path, threads=2)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(horizon, [engine_path] * 4) == [4] * 4
    assert kept.threads == 2


def horizon(engine: Path) -> int:
    policy = Policy(engine, threads=2)
    return int(policy.metadata["policy"]["horizon"])
