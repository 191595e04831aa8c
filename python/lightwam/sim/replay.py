# SPDX-License-Identifier: Apache-2.0
"""One demonstration of a scripted expert for each task, to be replayed open loop as a baseline.

It starts from an official state that no trial uses, without noise and without images. Its success says how little a
task's starts vary. Legend: T control steps, A action width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightwam.arithmetic import default_arithmetic
from lightwam.errors import SimulatorError
from lightwam.files import replacing_file
from lightwam.sim.env import SimulatorEnv


@default_arithmetic
def demonstrate(env: SimulatorEnv, state: int, settle_steps: int, max_steps: int) -> npt.NDArray[np.float32]:
    """The expert's actions [T, A], in the environment's units, from an official state to success.

    Raises SimulatorError where there is no such state, or the expert does not succeed within `max_steps`.
    """
    official_SN = env.official_states()
    if not 0 <= state < len(official_SN):
        raise SimulatorError(f"official state {state} does not exist: choose 0..{len(official_SN) - 1}")
    env.reset()
    env.set_state(official_SN[state])
    env.settle(settle_steps, render_last=False)
    expert = env.expert()
    actions: list[npt.NDArray[np.float64]] = []
    while len(actions) < max_steps:
        actions.append(expert.decide().action)
        if env.step(actions[-1]):
            return np.asarray(actions, np.float32)
    raise SimulatorError(f"the expert did not succeed within {max_steps} steps from state {state}: choose another")


def write_replay(path: Path, demonstrations: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write the file (.npz) of replayed demonstrations, [T, A] for each instruction."""
    path.parent.mkdir(parents=True, exist_ok=True)
    actions: dict[str, Any] = {f"actions_{number}": each for number, each in enumerate(demonstrations.values())}
    with replacing_file(path) as building, building.open("wb") as file:
        np.savez(file, kind="replay", instructions=np.array(list(demonstrations)), **actions)
