# SPDX-License-Identifier: Apache-2.0
"""What perturbations change in LIBERO: the agent view's pose, and the arm's start joints.

Legend: N length of a flat simulator state.
"""

from __future__ import annotations

import numpy as np

from lightwam.sim.env import Array
from lightwam.sim.libero.env import CAMERAS, LiberoEnv


def posed_state(env: LiberoEnv, state_N: Array, rng: np.random.Generator, spread: float) -> Array:
    """Start [N] with the arm's joints moved by normal noise of `spread` radians, at most twice that."""
    moved = np.array(state_N, dtype=np.float64)
    for joint in env.raw.robots[0].robot_joints:
        address = int(env.sim.model.get_joint_qpos_addr(joint))
        moved[1 + address] += spread * np.clip(rng.standard_normal(), -2, 2)
    return moved


def move_agent_view(env: LiberoEnv, metres: Array, radians: Array) -> None:
    """Move and turn the agent view from its usual place, in world axes; zeros bring it back."""
    model = env.sim.model
    camera = model.camera_name2id(CAMERAS["agentview"])
    usual = getattr(model, "lightwam_agent_view", None)
    if usual is None:
        usual = (np.array(model.cam_pos[camera]), np.array(model.cam_quat[camera]))
        model.lightwam_agent_view = usual
    position, quaternion = usual
    model.cam_pos[camera] = position + metres
    model.cam_quat[camera] = turned(quaternion, radians)


def turned(quaternion_wxyz: Array, radians: Array) -> Array:
    """The quaternion [4] turned by a rotation vector [3] in world axes."""
    angle = float(np.linalg.norm(radians))
    axis = np.asarray(radians) / angle if angle else np.zeros(3)
    w1, v1 = np.cos(angle / 2), np.sin(angle / 2) * axis
    w2, v2 = quaternion_wxyz[0], np.asarray(quaternion_wxyz[1:])
    return np.concatenate([[w1 * w2 - v1 @ v2], w1 * v2 + w2 * v1 + np.cross(v1, v2)])
