# SPDX-License-Identifier: Apache-2.0
"""`lightwam train replay`: one demonstration of the scripted expert, to be replayed open loop as a baseline.

It starts from an official state that no trial uses, without noise and without images. Its success says how little a
task's starts vary. Legend: T control steps, A action width.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lightwam.errors import SimulatorError
from lightwam.sim.libero.env import LiberoEnv, load_task
from lightwam.sim.libero.expert import PickPlaceExpert


@dataclass(frozen=True)
class ReplayArgs:
    """Options of `lightwam train replay`."""

    out: Path
    """File to write (.npz)."""
    suite: str = "libero_object"
    task: int = 0
    state: int = 49
    """Official state that the demonstration starts from; choose one outside the trials."""
    settle_steps: int = 30
    max_steps: int = 400


def demonstrate(env: LiberoEnv, state: int, settle_steps: int, max_steps: int) -> npt.NDArray[np.float32]:
    """The expert's actions [T, A], environment units, from an official state to success.

    Raises SimulatorError where there is no such state, or the expert does not succeed within `max_steps`.
    """
    official_SN = env.task.official_states()
    if not 0 <= state < len(official_SN):
        raise SimulatorError(f"official state {state} does not exist: choose 0..{len(official_SN) - 1}")
    env.reset()
    env.set_state(official_SN[state])
    env.settle(settle_steps, render_last=False)
    expert = PickPlaceExpert(env)
    actions: list[npt.NDArray[np.float64]] = []
    while len(actions) < max_steps:
        actions.append(expert.decide().action)
        if env.step(actions[-1]):
            return np.asarray(actions, np.float32)
    raise SimulatorError(f"the expert did not succeed within {max_steps} steps from state {state}: choose another")


def main(args: ReplayArgs) -> int:
    """Record the demonstration and write the baseline's file."""
    env = LiberoEnv(load_task(args.suite, args.task), render=False)
    try:
        actions_TA = demonstrate(env, args.state, args.settle_steps, args.max_steps)
    finally:
        env.close()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(args.out.stem + ".tmp.npz")
    np.savez(temporary, kind="replay", actions=actions_TA)
    os.replace(temporary, args.out)
    print(f"{args.out}: {len(actions_TA)} control steps")
    return 0
