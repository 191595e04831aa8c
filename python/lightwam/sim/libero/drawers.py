# SPDX-License-Identifier: Apache-2.0
"""Scripted expert that pulls a drawer open at its handle, or pushes it shut. Lengths in metres, world frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightwam.sim.env import Array, Decision, Expert
from lightwam.sim.libero.arm import DOWN, Arm
from lightwam.sim.libero.env import CLOSE_GRIPPER, OPEN_GRIPPER, LiberoEnv
from lightwam.sim.libero.geometry import body_points

TILT = np.deg2rad(45)  # of the hand towards the front, against pointing down
AWAY = 0.10  # from here the hand moves onto the handle, along its own axis
HANDLE_DEPTH = 0.02  # what sticks out furthest, so deep, is the handle
ALIGNED = 0.012


class DrawerExpert(Expert):
    """Expert for ["open", region] and ["close", region] of a drawer."""

    def __init__(self, env: LiberoEnv, predicate: Sequence[str]) -> None:
        self.env, self.arm, self.predicate = env, Arm(env), tuple(predicate)
        model = env.sim.model
        self._joint = model.joint_name2id(env.raw.object_sites_dict[predicate[1]].joints[0])
        self._body = int(model.jnt_bodyid[self._joint])
        self._points = body_points(env, self._body)

    def done(self) -> bool:
        """Whether the drawer is where it should be, and the hand has let go and left."""
        _, handle, front = self._handle()
        away = self.env.grip_position() - handle
        return self.env.holds(self.predicate) and float(away @ (front - DOWN)) > 0.8 * AWAY

    def decide(self) -> Decision:
        """The clean action for the simulator's present state."""
        bar, handle, front = self._handle()
        pointing = np.cos(TILT) * DOWN - np.sin(TILT) * front
        if self.predicate[0] == "open":
            return self._open(handle, front, pointing, np.cross(pointing, bar))
        return self._shut(handle, front, pointing, bar)

    def _open(self, handle: Array, front: Array, pointing: Array, closing: Array) -> Decision:
        aim, arm, env = self.arm.aimed, self.arm, self.env
        offset = handle - env.grip_position()
        along = float(offset @ pointing)
        across = offset - along * pointing
        opening = env.finger_opening()
        if env.holds(self.predicate):
            gripped = opening < 0.06
            move = np.zeros(3) if gripped else front * 0.03 - 0.05 * pointing
            return Decision(aim(move, pointing, closing, OPEN_GRIPPER), "release" if gripped else "retreat")
        turned = float(np.linalg.norm(arm.aim_error(pointing, closing))) < 0.15
        if np.linalg.norm(offset) < 2 * ALIGNED and turned and opening > 0.008:
            if arm.gripper_command() > 0.5 and opening < 0.03:
                return Decision(aim(0.05 * front + across, pointing, closing, CLOSE_GRIPPER), "pull")
            if np.linalg.norm(offset) < ALIGNED or arm.gripper_command() > 0.0:
                return Decision(aim(offset, pointing, closing, CLOSE_GRIPPER), "close")
        aligned = turned and np.linalg.norm(across) < ALIGNED
        move = offset if aligned else offset - AWAY * pointing
        return Decision(aim(move, pointing, closing, OPEN_GRIPPER), "descend" if aligned else "approach")

    def _shut(self, handle: Array, front: Array, pointing: Array, bar: Array) -> Decision:
        raise NotImplementedError

    def _handle(self) -> tuple[Array, Array, Array]:
        """The handle's direction [3], its middle [3], and the direction [3] in which the drawer opens."""
        data, model = self.env.sim.data, self.env.sim.model
        axis = np.array(data.xaxis[self._joint])
        low, high = model.jnt_range[self._joint]
        front = axis if high > -low else -axis
        rotation = np.array(data.body_xmat[self._body]).reshape(3, 3)
        points = self._points @ rotation.T + data.body_xpos[self._body]
        reach = points @ front
        handle = points[reach > reach.max() - HANDLE_DEPTH]
        return np.cross(front, DOWN), (handle.min(0) + handle.max(0)) / 2, front
