# SPDX-License-Identifier: Apache-2.0
"""`lightwam train replay`: one demonstration of the scripted expert for each task, as an open-loop baseline."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from lightwam.cli.record import chosen_tasks
from lightwam.progress import counting_bar
from lightwam.sim.fidelity import refuse_unfaithful
from lightwam.sim.registry import load_simulator
from lightwam.sim.replay import demonstrate, write_replay


@dataclass(frozen=True)
class ReplayArgs:
    """Record one demonstration of the scripted expert for each task, as an open-loop baseline."""

    out: Path
    """File to write (.npz)."""
    sim: str = "libero"
    """Simulator, or the class of your own as module:Class."""
    suite: str | None = None
    """Suite of tasks (default: the simulator's; libero_object in LIBERO)."""
    task: str | None = None
    """Task of the suite, or several: all, 0-9, or 0,3,5 (default: the simulator's; 0 in LIBERO)."""
    state: int = 49
    """Official state that the demonstration starts from; choose one outside the trials."""
    settle_steps: int = 30
    max_steps: int = 400
    any_simulator: bool = False
    """Run with other versions of the simulator's packages than the faithful ones (LIBERO: MuJoCo 3.3.0), too."""


def main(args: ReplayArgs) -> int:
    """Record the demonstrations and write the baseline's file. Raises ConfigError, SimulatorError."""
    simulator = load_simulator(args.sim)
    refuse_unfaithful(simulator, args.any_simulator)
    tasks = chosen_tasks(simulator, args.suite, args.task)
    demonstrations = {}
    with counting_bar("demonstrations", len(tasks) > 1) as on_progress:
        for number, task in enumerate(tasks):
            with contextlib.closing(simulator.make_env(task, render=False)) as env:
                actions_TA = demonstrate(env, args.state, args.settle_steps, args.max_steps)
            demonstrations[task.instruction] = actions_TA
            on_progress(number + 1, len(tasks))
    write_replay(args.out, demonstrations)
    steps = ", ".join(str(len(actions_TA)) for actions_TA in demonstrations.values())
    print(f"{args.out}: {steps} control steps")
    return 0
