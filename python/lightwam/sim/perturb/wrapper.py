# SPDX-License-Identifier: Apache-2.0
"""An environment around another one: everything passes through, and an axis changes what it is about."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from lightwam.runtime import Observation
from lightwam.sim.env import Array, SimulatorEnv


class Perturbed(SimulatorEnv):
    """`inner` with one axis of perturbation at `level` (1 to 3).

    strengths: what the levels mean. `draw` is called at the beginning of each trial, with a generator that follows from
    axis, task and trial; levels draw alike.
    """

    axis: str
    strengths: tuple[float, float, float]

    def __init__(self, inner: SimulatorEnv, level: int) -> None:
        self.inner, self.task = inner, inner.task
        self.strength = self.strengths[level - 1]
        self.trial = 0

    def draw(self, rng: np.random.Generator) -> None:
        """Draw what is new in each trial. Default: nothing."""

    def generator(self, *more: int) -> np.random.Generator:
        """A generator of this axis, task and trial, and of `more`."""
        return np.random.default_rng([zlib.crc32(self.axis.encode()), self.task.index, self.trial, *more])

    def begin_trial(self, index: int) -> None:
        self.inner.begin_trial(index)
        self.trial = index
        self.draw(self.generator())

    def leave(self) -> None:
        """Undo what stays in the simulator: `inner` goes on without this axis."""
        if isinstance(self.inner, Perturbed):
            self.inner.leave()

    def seed(self, seed: int) -> None:
        self.inner.seed(seed)

    def instruction(self) -> str:
        return self.inner.instruction()

    def reset(self) -> None:
        self.inner.reset()

    def official_states(self) -> Array:
        return self.inner.official_states()

    def shifted_state(self, official_N: Array, index: int) -> Array:
        return self.inner.shifted_state(official_N, index)

    def posed_state(self, state_N: Array, rng: np.random.Generator, spread: float) -> Array:
        return self.inner.posed_state(state_N, rng, spread)

    def move_cameras(self, metres: Array, radians: Array) -> None:
        self.inner.move_cameras(metres, radians)

    def set_state(self, state_N: Array) -> None:
        self.inner.set_state(state_N)

    def settle(self, steps: int, *, render_last: bool = True) -> None:
        self.inner.settle(steps, render_last=render_last)

    def step(self, action_A: Sequence[float] | Array, *, render: bool = False) -> bool:
        return self.inner.step(action_A, render=render)

    def observation(self) -> Observation:
        return self.inner.observation()

    def picture(self) -> Array:
        return self.inner.picture()

    def succeeded(self) -> bool:
        return self.inner.succeeded()

    def close(self) -> None:
        self.inner.close()
