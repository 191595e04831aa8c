# SPDX-License-Identifier: Apache-2.0
"""Scripted expert that turns a stove on at its knob. Lengths in metres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightwam.sim.env import Array, Decision, Expert
from lightwam.sim.libero.arm import Arm
from lightwam.sim.libero.env import CLOSE_GRIPPER, OPEN_GRIPPER, LiberoEnv
from lightwam.sim.libero.geometry import Footprint, body_points, footprint, wrap_half_turn

RIDGE = 0.03  # the uppermost part of the knob, which the fingers grasp
DEPTH, HOVER = 0.02, 0.10  # of the grip site below the ridge's top; above it while not aligned
ALIGNED, TURNED = 0.012, 0.15


class KnobExpert(Expert):
    """Expert for ["turnon", stove]."""

    def __init__(self, env: LiberoEnv, predicate: Sequence[str]) -> None:
        self.env, self.arm, self.predicate = env, Arm(env), tuple(predicate)
        self._joint = env.sim.model.joint_name2id(env.raw.fixtures_dict[predicate[1]].joints[-1])
        self._body = int(env.sim.model.jnt_bodyid[self._joint])
        self._points = body_points(env, self._body)

    def done(self) -> bool:
        """Whether the stove is on and the hand has let go and left."""
        return self.env.holds(self.predicate) and self.env.grip_position()[2] > self._ridge().top + 0.5 * HOVER

    def decide(self) -> Decision:
        """The clean action for the simulator's present state."""
        arm, ridge, opening = self.arm, self._ridge(), self.env.finger_opening()
        grasp = np.array([*ridge.centre_xy, ridge.top - DEPTH])
        offset = grasp - self.env.grip_position()
        if self.env.holds(self.predicate):
            free = opening > 0.06
            return Decision(
                arm.upright(np.array([0, 0, 0.05 * free]), 0.0, OPEN_GRIPPER), "retreat" if free else "release"
            )
        error = wrap_half_turn(ridge.narrow_yaw - arm.yaw())
        beside = float(np.linalg.norm(offset[:2]))
        if abs(offset[2]) < ALIGNED and beside < 2 * ALIGNED:
            if arm.gripper_command() > 0.5:
                return Decision(arm.upright(offset, 0.5 * self._sense(), CLOSE_GRIPPER), "turn")
            if abs(error) < TURNED or arm.gripper_command() > 0.0:
                return Decision(arm.upright(offset, error, CLOSE_GRIPPER), "close")
        misaligned = max(beside, 0.06 * abs(error))
        share = float(np.clip(misaligned / ALIGNED - 1.0, 0.0, 1.0))
        move = offset + np.array([0.0, 0.0, share * HOVER])
        return Decision(arm.upright(move, error, OPEN_GRIPPER), "approach" if share == 1.0 else "descend")

    def target_xy(self) -> Array:
        """Where [2] the knob's ridge is."""
        return self._ridge().centre_xy

    def place_xy(self) -> Array:
        """The same: a knob stays where it is."""
        return self._ridge().centre_xy

    def _sense(self) -> float:
        """+1 where the knob turns on counterclockwise, seen from above; -1 otherwise."""
        low, high = self.env.sim.model.jnt_range[self._joint]
        return float(np.sign(self.env.sim.data.xaxis[self._joint][2]) * (1 if high > -low else -1))

    def _ridge(self) -> Footprint:
        data = self.env.sim.data
        points = self._points @ np.array(data.body_xmat[self._body]).reshape(3, 3).T + data.body_xpos[self._body]
        return footprint(points[points[:, 2] > points[:, 2].max() - RIDGE])
