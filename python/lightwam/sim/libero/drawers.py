# SPDX-License-Identifier: Apache-2.0
"""Scripted expert that pulls a drawer open at its handle, or pushes it shut. Lengths in metres, world frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightwam.sim.env import Array, Decision, Expert
from lightwam.sim.libero.arm import DOWN, Arm
from lightwam.sim.libero.env import CLOSE_GRIPPER, OPEN_GRIPPER, LiberoEnv
from lightwam.sim.libero.geometry import body_points

PULL_TILT, PUSH_TILT = np.deg2rad(80), np.deg2rad(45)  # of the hand towards the front, against pointing down
STANDOFF = 0.008  # of the grip site before the middle of the handle
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
        """Whether the drawer is where it should be, and the hand has left it, or has turned to something else."""
        _, handle, front = self._handle()
        away = float(np.linalg.norm(self.env.grip_position() - handle))
        turned_to_it = -float(self.env.grip_rotation()[:, 2] @ front) > 0.5
        return self.env.holds(self.predicate) and (away > 0.7 * AWAY or not turned_to_it)

    def decide(self) -> Decision:
        """The clean action for the simulator's present state."""
        bar, handle, front = self._handle()
        tilt = PULL_TILT if self.predicate[0] == "open" else PUSH_TILT
        pointing = np.cos(tilt) * DOWN - np.sin(tilt) * front
        if self.predicate[0] == "open":
            return self._open(handle + STANDOFF * front, front, pointing, np.cross(pointing, bar))
        return self._shut(handle, front, pointing, bar)

    def target_xy(self) -> Array:
        """Where [2] the handle is."""
        return self._handle()[1][:2]

    def place_xy(self) -> Array:
        """Where [2] the handle is when the drawer is fully open, or shut."""
        _, handle, front = self._handle()
        low, high = self.env.sim.model.jnt_range[self._joint]
        position = abs(float(self.env.sim.data.qpos[self.env.sim.model.jnt_qposadr[self._joint]]))
        return np.asarray(handle + (max(-low, high) * (self.predicate[0] == "open") - position) * front)[:2]

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
        if np.linalg.norm(move - (move @ DOWN) * DOWN) > 0.05:  # not down before it is there
            move -= max(move @ DOWN, 0.0) * DOWN
        return Decision(aim(move, pointing, closing, OPEN_GRIPPER), "descend" if aligned else "approach")

    def _shut(self, handle: Array, front: Array, pointing: Array, bar: Array) -> Decision:
        def aim(move: Array, phase: str) -> Decision:
            return Decision(self.arm.aimed(move, pointing, bar, CLOSE_GRIPPER), phase)

        if self.env.holds(self.predicate):
            return aim(0.05 * (front - DOWN), "retreat")
        away = self.env.grip_position() - handle
        ahead, sideways, height = float(away @ front), float(away @ bar), float(-away @ DOWN)
        back_in_line = -sideways * bar + height * DOWN
        turned = float(np.linalg.norm(self.arm.aim_error(pointing, bar))) < 0.15
        if turned and ahead > 0.0 and abs(sideways) < 0.02 and abs(height) < 0.02:
            return aim(back_in_line - 0.05 * front, "push")
        beside = (AWAY - ahead) * front - sideways * bar
        if np.linalg.norm(beside) > 0.03:  # in front of the drawer first, then down
            return aim(beside - max(2 * AWAY - height, 0.0) * DOWN, "approach")
        return aim(beside + height * DOWN, "descend")

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
