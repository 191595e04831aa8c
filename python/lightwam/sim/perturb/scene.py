# SPDX-License-Identifier: Apache-2.0
"""Perturbations of the scene and the robot: camera pose, start joints, object layout, action delay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightwam.sim.env import Array
from lightwam.sim.perturb.wrapper import Perturbed


class Camera(Perturbed):
    """The cameras that stand still, moved by s metres and turned by 1.5 s radians, in directions drawn at random.

    Not every simulator can (`SimulatorEnv.move_cameras`). A camera on the wrist stays as it is.
    """

    axis = "camera"
    strengths = (0.02, 0.05, 0.1)

    def draw(self, rng: np.random.Generator) -> None:
        ways = rng.standard_normal((2, 3))
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        self.metres, self.radians = self.strength * ways[0], 1.5 * self.strength * ways[1]

    def set_state(self, state_N: Array) -> None:
        self.inner.move_cameras(self.metres, self.radians)
        self.inner.set_state(state_N)

    def leave(self) -> None:
        self.inner.move_cameras(np.zeros(3), np.zeros(3))
        super().leave()


class Joints(Perturbed):
    """The robot's start joints with normal noise of s radians (`SimulatorEnv.posed_state`)."""

    axis = "joints"
    strengths = (0.02, 0.05, 0.1)

    def set_state(self, state_N: Array) -> None:
        self.inner.set_state(self.inner.posed_state(np.asarray(state_N), self.generator(), self.strength))


class Layout(Perturbed):
    """Objects moved from their official places as in the shifted states, by s times as much; level 2 is `shifted`.

    A start state is interpolated number by number, which fits simulators whose states hold positions.
    """

    axis = "layout"
    strengths = (0.5, 1.0, 1.5)

    def set_state(self, state_N: Array) -> None:
        official_N = np.asarray(state_N)
        shifted_N = self.inner.shifted_state(official_N, self.trial)
        if self.strength == 1.0:
            self.inner.set_state(shifted_N)
        else:
            self.inner.set_state(official_N + self.strength * (shifted_N - official_N))


class Delay(Perturbed):
    """Each action is executed s control steps late; the robot stands still meanwhile."""

    axis = "delay"
    strengths = (1, 2, 4)

    def draw(self, rng: np.random.Generator) -> None:
        self.waiting: list[Array] = []

    def step(self, action_A: Sequence[float] | Array, *, render: bool = False) -> bool:
        self.waiting.append(np.array(action_A))
        if len(self.waiting) <= self.strength:
            self.inner.settle(1, render_last=render)
            return self.inner.succeeded()
        return self.inner.step(self.waiting.pop(0), render=render)
