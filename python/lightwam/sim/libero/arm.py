# SPDX-License-Identifier: Apache-2.0
"""Clipped proportional control of the arm's hand, for scripted experts.

Units: metres, radians; actions are the environment's: 6 deltas in +-1 (0.05 m, 0.5 rad) and the gripper (-1 open).
"""

from __future__ import annotations

import numpy as np

from lightwam.sim.env import Array
from lightwam.sim.libero.env import ACTION_WIDTH, LiberoEnv
from lightwam.sim.libero.geometry import wrap_half_turn

METRES_PER_ACTION = 0.05
RADIANS_PER_ACTION = 0.5
CANONICAL_YAW = np.pi / 2  # the fingers close along world y in the start pose
WRIST_MIDDLE = 0.4  # angle of the last joint that turns tend to; it is 0.8 in the start pose
DOWN = np.array([0.0, 0.0, -1.0])


class Arm:
    """The hand of an environment's robot: where it is, and actions that move it."""

    def __init__(self, env: LiberoEnv) -> None:
        self.env = env

    def gripper_command(self) -> float:
        """The gripper's integrated command, -1 fully open to +1 fully closed."""
        return float(np.asarray(self.env.raw.robots[0].gripper.current_action)[-1])

    def fingers(self) -> Array:
        """From the right finger to the left one [3] (m): the direction in which they close."""
        model, data = self.env.sim.model, self.env.sim.data
        prefix = self.env.raw.robots[0].gripper.naming_prefix
        left = data.body_xpos[model.body_name2id(f"{prefix}leftfinger")]
        right = data.body_xpos[model.body_name2id(f"{prefix}rightfinger")]
        return np.asarray(left - right)

    def yaw(self) -> float:
        """The direction in which the fingers close, seen from above."""
        direction = self.fingers()
        return float(np.arctan2(direction[1], direction[0]))

    def yaw_error(self, yaw: float | None) -> float:
        """How far to turn until the fingers close along `yaw`, seen from above (None: the usual yaw).

        Of the two ways, the one that keeps the last joint away from its limits (+-2.9).
        """
        error = wrap_half_turn((CANONICAL_YAW if yaw is None else yaw) - self.yaw())
        joint = float(self.env.sim.data.qpos[self.env.raw.robots[0]._ref_joint_pos_indexes[-1]])
        other = error - np.sign(error) * np.pi
        return float(min(error, other, key=lambda turn: abs(joint - turn - WRIST_MIDDLE)))

    def upright(self, move: Array, yaw_error: float, gripper: float) -> Array:
        """The action [7] that moves the grip site by `move` [3] and turns by `yaw_error`; the hand points down."""
        tool = self.env.grip_rotation()[:, 2]
        return self._action(move, np.cross(tool, DOWN) + np.array([0.0, 0.0, yaw_error]), gripper)

    def aimed(self, move: Array, pointing: Array, closing: Array, gripper: float) -> Array:
        """The action [7] that moves the grip site by `move` [3]; the hand turns to `aim_error`'s directions."""
        return self._action(move, self.aim_error(pointing, closing), gripper)

    def aim_error(self, pointing: Array, closing: Array) -> Array:
        """The rotation vector [3] (for small angles) to a hand that points along one unit vector, and whose fingers
        close along another, perpendicular one, in either sense."""
        tool, fingers = self.env.grip_rotation()[:, 2], self.fingers()
        fingers = fingers / np.linalg.norm(fingers)
        wanted = closing if fingers @ closing >= 0 else -closing
        twist = float(np.cross(fingers, wanted) @ tool)
        return np.asarray(np.cross(tool, pointing) + twist * tool)

    def _action(self, move: Array, turn: Array, gripper: float) -> Array:
        action = np.empty(ACTION_WIDTH)
        action[:3] = np.clip(move / METRES_PER_ACTION, -1.0, 1.0)
        action[3:6] = np.clip(turn / RADIANS_PER_ACTION, -1.0, 1.0)
        action[6] = gripper
        return action
