# SPDX-License-Identifier: Apache-2.0
"""How many official starts of each LIBERO task the scripted expert solves; renders nothing.

    python tests/stress/expert.py --suite libero_spatial libero_goal libero_10 --states 10

A line a task: solved of tried, control steps of the solved ones, and in which phase the others ended. A task that the
expert refuses is told in its own words. About 2 s an episode, and 5 s a task to build its scene.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import Counter

from lightwam.errors import SimulatorError
from lightwam.number_lists import ranges_in
from lightwam.sim.env import Task
from lightwam.sim.libero.simulator import Libero

SETTLE_STEPS = 10


def measure(libero: Libero, task: Task, states: list[int], max_steps: int) -> str:
    """One task's line."""
    steps: list[int] = []
    failures: Counter[str] = Counter()
    with contextlib.closing(libero.make_env(task, render=False)) as env:
        official_SN = env.official_states()
        for state in states:
            env.seed(state)
            env.reset()
            env.set_state(official_SN[state])
            env.settle(SETTLE_STEPS, render_last=False)
            try:
                expert = env.expert()
            except SimulatorError as error:
                return f"refused: {error}"
            for step in range(max_steps):
                decision = expert.decide()
                if env.step(decision.action):
                    steps.append(step + 1)
                    break
            else:
                failures[f"{state}:{decision.phase}"] += 1
    span = f", {min(steps)}-{max(steps)} steps" if steps else ""
    ends = f", ended in {' '.join(failures)}" if failures else ""
    return f"{len(steps)} of {len(states)}{span}{ends}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", default=["libero_spatial", "libero_goal", "libero_10"])
    parser.add_argument("--tasks", default="0-9", help="numbers: 0-9, or 0,3,5")
    parser.add_argument("--states", default="0-9", help="official states: 0-9, or 0,3,5")
    parser.add_argument("--max-steps", type=int, default=600)
    args = parser.parse_args()
    tasks, states = ([n for numbers in ranges_in(words) or [] for n in numbers] for words in (args.tasks, args.states))
    libero = Libero()
    for suite in args.suite:
        for number in tasks:
            task = libero.task(suite, number)
            start = time.monotonic()
            line = measure(libero, task, states, args.max_steps)
            print(f"{suite} {number} | {task.instruction} | {line} | {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
