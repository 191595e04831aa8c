# SPDX-License-Identifier: Apache-2.0
"""`lightwam train replay`: one demonstration of the scripted expert, as an open-loop baseline."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from lightwam.sim.fidelity import refuse_unfaithful
from lightwam.sim.registry import load_simulator
from lightwam.sim.replay import demonstrate, write_replay


@dataclass(frozen=True)
class ReplayArgs:
    """Record one demonstration of the scripted expert, as an open-loop baseline."""

    out: Path
    """File to write (.npz)."""
    sim: str = "libero"
    """Simulator, or the class of your own as module:Class."""
    suite: str | None = None
    """Suite of tasks (default: the simulator's; libero_object in LIBERO)."""
    task: int | None = None
    """Task of the suite (default: the simulator's; 0 in LIBERO)."""
    state: int = 49
    """Official state that the demonstration starts from; choose one outside the trials."""
    settle_steps: int = 30
    max_steps: int = 400
    any_simulator: bool = False
    """Run with other versions of the simulator's packages than the faithful ones (LIBERO: MuJoCo 3.3.0), too."""


def main(args: ReplayArgs) -> int:
    """Record the demonstration and write the baseline's file."""
    simulator = load_simulator(args.sim)
    refuse_unfaithful(simulator, args.any_simulator)
    with contextlib.closing(simulator.make_env(simulator.task(args.suite, args.task), render=False)) as env:
        actions_TA = demonstrate(env, args.state, args.settle_steps, args.max_steps)
    write_replay(args.out, actions_TA)
    print(f"{args.out}: {len(actions_TA)} control steps")
    return 0
