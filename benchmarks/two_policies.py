# SPDX-License-Identifier: Apache-2.0
"""Two policies in one process: their chunks at once, from two Python threads, against one after the other.

    python benchmarks/two_policies.py ENGINE [--threads 2] [--chunks 20] [--rounds 5]

Both kinds of round alternate. Prints medians over the rounds: wall time and CPU time of a pair of chunks, and the
share of the "one after the other" wall time that "at once" takes (1.0: nothing lost by sharing).
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lightwam.engine.inputs import random_observation
from lightwam.runtime import Policy


def open_policy(engine: Path, threads: int) -> Callable[[], object]:
    """A ready policy; the result runs one chunk on a random observation."""
    policy = Policy(engine, threads=threads, unfamiliar="ignore")
    policy.set_instruction(policy.instructions[0] if policy.instructions else "pick up the object")
    observation = random_observation(policy.metadata["policy"], np.random.default_rng(0))
    policy.infer(observation)
    return lambda: policy.infer(observation)


def in_turn(policies: list[Callable[[], object]], chunks: int) -> None:
    for policy in policies:
        for _ in range(chunks):
            policy()


def at_once(policies: list[Callable[[], object]], chunks: int) -> None:
    workers = [threading.Thread(target=in_turn, args=([policy], chunks)) for policy in policies]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--threads", type=int, default=2, help="threads of each policy")
    parser.add_argument("--chunks", type=int, default=20, help="chunks of each policy in a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    policies = [open_policy(arguments.engine, arguments.threads) for _ in range(2)]
    figures: dict[str, list[tuple[float, float]]] = {"in turn": [], "at once": []}
    for _ in range(arguments.rounds):
        for name, run in (("in turn", in_turn), ("at once", at_once)):
            wall, cpu = time.perf_counter(), time.process_time()
            run(policies, arguments.chunks)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            figures[name].append((spent[0] / arguments.chunks, spent[1] / arguments.chunks))
    walls = {}
    for name, rounds in figures.items():
        walls[name] = statistics.median(wall for wall, _ in rounds)
        cpu = statistics.median(seconds for _, seconds in rounds)
        print(f"{name}: a pair of chunks {walls[name] * 1e3:.2f} ms, CPU time {cpu * 1e3:.2f} ms")
    print(f"at once / in turn: {walls['at once'] / walls['in turn']:.2f}")


if __name__ == "__main__":
    main()
