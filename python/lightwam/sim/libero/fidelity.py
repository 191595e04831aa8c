# SPDX-License-Identifier: Apache-2.0
"""Which MuJoCo gives LIBERO's published results, and how a running simulator shows which one it is.

Measured with MuJoCo 3.3.0 and 3.17.0 (docs/reference/simulation.md). Lengths in metres, angles in degrees.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import numpy as np

from lightwam.sim.env import Array, Faithful, Sign
from lightwam.sim.libero.env import LiberoEnv, load_tasks

FAITHFUL = Faithful(
    versions={"mujoco": "3.3.0"},
    changes="from MuJoCo 3.3.3 on floors are darker, and from 3.4.0 on objects settle elsewhere "
    "(in libero_spatial task 5 the bowl slides off the ramekin): policies, data and figures of one don't fit the other",
    required=False,  # True as soon as the bundled policy is one that was trained with these versions
)
SETTLE_STEPS = 30
BOWL, RAMEKIN = "akita_black_bowl_1", "glazed_rim_porcelain_ramekin_1"


def fingerprint(env: LiberoEnv) -> dict[str, Any]:
    """Official start 0, settled: hashes of the objects' positions (to 0.1 mm) and of the agent view, and its mean RGB.

    Without a renderer there is no frame in it.
    """
    _settle(env, render=env.renders)
    positions = np.array([env.object_position(name) for name in env.raw.objects_dict])
    found: dict[str, Any] = {"settled": _hash(np.round(positions * 1e4).astype(np.int64))}
    if env.renders:
        frame_HWC = env.images()["agentview"]
        found |= {"frame": _hash(frame_HWC), "frame_rgb": [round(float(v), 1) for v in frame_HWC.mean((0, 1))]}
    return found


def signs() -> list[Sign]:
    """The bowl's seat in libero_spatial task 5, and the brightness of libero_object task 0. Builds two environments."""
    with contextlib.closing(LiberoEnv(load_tasks("libero_spatial")[5], render=False)) as env:
        tilt, offset = _seat(env)
    with contextlib.closing(LiberoEnv(load_tasks("libero_object")[0])) as env:
        rgb = fingerprint(env)["frame_rgb"]
    return [
        Sign("libero_spatial task 5, bowl on the ramekin: tilt (degrees)", (tilt,), (16.0,), 6.0),
        Sign("libero_spatial task 5, bowl on the ramekin: offset (cm)", (100 * offset,), (1.5,), 1.0),
        Sign("libero_object task 0, agent view: mean RGB", tuple(rgb), (145.0, 139.0, 132.0), 4.0),
    ]


def _settle(env: LiberoEnv, render: bool) -> None:
    """Official start 0 after 30 steps of standing still."""
    env.seed(0)
    env.reset()
    env.set_state(env.official_states()[0])
    env.settle(SETTLE_STEPS, render_last=render)


def _seat(env: LiberoEnv) -> tuple[float, float]:
    """Tilt of the bowl against upright, and how far it stands beside the ramekin's middle."""
    _settle(env, render=False)
    upright = float(np.clip(env.object_rotation(BOWL)[2, 2], -1.0, 1.0))
    offset = (env.object_position(BOWL) - env.object_position(RAMEKIN))[:2]
    return float(np.degrees(np.arccos(upright))), float(np.linalg.norm(offset))


def _hash(values: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]
