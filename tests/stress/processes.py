# SPDX-License-Identifier: Apache-2.0
"""Forks, or exits, at random moments of a busy process; counts those that do not end as they should.

    python tests/stress/processes.py forks --count 1000
    python tests/stress/processes.py exits --count 200

forks: threads of the parent infer, open policies and set instructions. Each child uses, closes and leaves inherited
policies (DeviceError), opens one of its own in the main thread or another, compares its chunk with the parent's, and
ends by `os._exit` or through the interpreter's end.
exits: daemon threads infer, open, set instructions, verify files and make errors while the main thread ends: by
returning, `sys.exit(3)`, an exception, `os._exit(4)`, or with a handler of `atexit` that infers.

A process that takes longer than --patience seconds hangs. tests/python/runtime/test_processes.py runs a few of each.
"""

from __future__ import annotations

import argparse
import atexit
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lightwam.assets import bundled_engine
from lightwam.errors import DeviceError, LightWAMError
from lightwam.runtime import Policy, _engine

FAILED = 99  # status of a child that saw what it should not


def seen_by(policy: Policy) -> dict[str, Any]:
    """An observation for any engine that starts at images."""
    section = policy.metadata["policy"]
    images = {camera["name"]: np.full((96, 96, 3), 7 * i, np.uint8) for i, camera in enumerate(section["cameras"])}
    return {"images": images, "state": np.zeros(section["state_width"], np.float32)}


def ready(engine: Path, threads: int) -> Policy:
    """A policy with an instruction."""
    policy = Policy(engine, threads=threads)
    policy.set_instruction(policy.instructions[0] if policy.instructions else "pick it up")
    return policy


def run_for_ever(work: Callable[[int], object]) -> None:
    """Call work(0), work(1), ... in a daemon thread, whatever it raises of ours."""

    def loop() -> None:
        for number in itertools.count():
            try:
                work(number)
            except LightWAMError:
                continue

    threading.Thread(target=loop, daemon=True).start()


def make_busy(engine: Path) -> list[Policy]:
    """Threads that infer, open and set instructions for ever; the policies that they use."""
    inferring, listening = ready(engine, 2), ready(engine, 1)
    seen = seen_by(inferring)
    run_for_ever(lambda _: inferring.infer(seen))
    run_for_ever(lambda _: Policy(engine, threads=2))
    run_for_ever(lambda number: listening.set_instruction(f"pick up the thing number {number}"))
    return [inferring, listening]


def refused(call: Callable[[], object]) -> bool:
    """Whether an inherited policy says why it cannot be used."""
    try:
        call()
    except DeviceError as error:
        return "was opened before this process was forked" in str(error)
    return False


def check_child(engine: Path, inherited: list[Policy], expected: np.ndarray[Any, Any]) -> bool:
    """What a child sees. Takes the policies out of the list, so that they are destroyed."""
    right = True
    while inherited:
        policy = inherited.pop()
        seen = seen_by(policy)
        right &= refused(lambda: policy.infer(seen)) and refused(lambda: policy.set_instruction("x"))  # noqa: B023
        right &= refused(lambda: policy.instruction)  # noqa: B023
        del policy
    own = ready(engine, random.choice((1, 2)))
    return bool(right and np.array_equal(own.infer(seen_by(own)).actions, expected))


def end_child(engine: Path, inherited: list[Policy], expected: np.ndarray[Any, Any], patience: int) -> None:
    """A child's life; SIGALRM ends one that hangs."""
    signal.alarm(patience)
    results: list[bool] = []

    def check() -> None:
        results.append(check_child(engine, inherited, expected))

    if random.random() < 0.5:
        check()
    else:
        thread = threading.Thread(target=check)
        thread.start()
        thread.join()
    status = 0 if results == [True] else FAILED
    if random.random() < 0.8:
        os._exit(status)
    sys.exit(status)


def forks(engine: Path, count: int, patience: int) -> Counter[str]:
    """Fork `count` children; how they ended."""
    own = ready(engine, 1)
    expected = own.infer(seen_by(own)).actions
    inherited = [*make_busy(engine), ready(engine, 2), own]
    del own
    ended: Counter[str] = Counter()
    for _ in range(count):
        time.sleep(random.uniform(0, 0.03))
        child = os.fork()
        if child == 0:
            end_child(engine, inherited, expected, patience)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ended["as it should" if status == 0 else f"status {status}" if status != -signal.SIGALRM else "hangs"] += 1
    if not np.array_equal(inherited[-1].infer(seen_by(inherited[-1])).actions, expected):
        ended["the parent computes other actions"] += 1
    return ended


WAYS = {"return": 0, "exit": 3, "raise": 1, "_exit": 4, "atexit": 0, "interrupt": 1}


def leave(engine: Path, way: str) -> None:
    """One life that ends in a certain way while daemon threads are busy."""
    policies = make_busy(engine)
    last = ready(engine, 1)
    seen = seen_by(last)
    run_for_ever(lambda _: policies[0].instruction)
    run_for_ever(lambda _: _engine.verify(os.fsencode(engine)))
    run_for_ever(lambda _: _engine.Policy(b"no/such/file", "cpu", 1, "auto"))
    run_for_ever(lambda _: last._engine.set_instruction("..."))
    time.sleep(random.uniform(0, 0.05))
    if way == "atexit":
        atexit.register(lambda: last.infer(seen))
    if way == "exit":
        sys.exit(3)
    if way == "raise":
        raise RuntimeError("expected")
    if way == "_exit":
        os._exit(4)
    if way == "interrupt":
        raise KeyboardInterrupt


def exits(engine: Path, count: int, patience: int) -> Counter[str]:
    """Start `count` lives; how they ended."""
    ended: Counter[str] = Counter()
    for number in range(count):
        way = list(WAYS)[number % len(WAYS)]
        wanted = -signal.SIGINT if way == "interrupt" else WAYS[way]
        command = [sys.executable, __file__, "leave", "--engine", str(engine), "--way", way]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=patience)
        except subprocess.TimeoutExpired:
            ended[f"{way}: hangs"] += 1
            continue
        right = done.returncode == wanted and "terminate" not in done.stderr and "Fatal" not in done.stderr
        ended["as it should" if right else f"{way}: status {done.returncode}: {done.stderr[-300:]}"] += 1
    return ended


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("forks", "exits", "leave"))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--engine", type=Path, default=None)
    parser.add_argument("--patience", type=int, default=120)
    parser.add_argument("--way", choices=tuple(WAYS), default="return", help="of `leave`, which `exits` starts")
    arguments = parser.parse_args()
    engine = arguments.engine or bundled_engine()
    if arguments.what == "leave":
        leave(engine, arguments.way)
        return 0
    began = time.monotonic()
    ended = (forks if arguments.what == "forks" else exits)(engine, arguments.count, arguments.patience)
    print(f"{arguments.count} {arguments.what} in {time.monotonic() - began:.0f} s: {dict(ended)}")
    return 0 if set(ended) == {"as it should"} else 1


if __name__ == "__main__":
    sys.exit(main())
