# SPDX-License-Identifier: Apache-2.0
"""Where and how wide a simulated object is: collision point clouds, narrow axis, grasp point.

Legend: P number of points. Lengths in metres, angles in radians, world frame unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lightwam.errors import SimulatorError
from lightwam.sim.env import Array
from lightwam.sim.libero.env import LiberoEnv

_SPHERE, _CAPSULE, _ELLIPSOID, _CYLINDER, _BOX, _MESH = 2, 3, 4, 5, 6, 7  # mjtGeom


@dataclass(frozen=True)
class Footprint:
    """Bounding box of an object standing somewhere: horizontal rectangle of least area, and its vertical extent."""

    centre_xy: Array  # [2]
    narrow_width: float
    wide_width: float
    narrow_yaw: float  # direction of the narrow axis, in -pi/2..pi/2
    bottom: float
    top: float


def _geom_points(model: Any, geom: int) -> Array:
    """Corners (or mesh vertices) of one collision geom in its own frame, [P, 3]."""
    kind, size = int(model.geom_type[geom]), np.asarray(model.geom_size[geom])
    if kind == _MESH:
        mesh = int(model.geom_dataid[geom])
        start, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
        return np.array(model.mesh_vert[start : start + count], dtype=np.float64)
    half = np.array(size, dtype=np.float64)
    if kind in (_CYLINDER, _CAPSULE):
        angles = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
        ring = np.stack([size[0] * np.cos(angles), size[0] * np.sin(angles)], axis=1)
        reach = size[1] + (size[0] if kind == _CAPSULE else 0.0)
        return np.concatenate([np.column_stack([ring, np.full(24, z)]) for z in (-reach, reach)])
    if kind == _SPHERE:
        half = np.full(3, size[0])
    elif kind not in (_BOX, _ELLIPSOID):
        return np.zeros((0, 3))
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
    return np.asarray(signs * half)


def collision_points(env: LiberoEnv, name: str) -> Array:
    """Collision points [P, 3] of an object (movable or fixture) in the frame of its root body."""
    model = env.sim.model._model
    root = env.raw.obj_body_id[name]
    position, rotation = env.object_position(name), env.object_rotation(name)
    clouds = []
    for geom in range(model.ngeom):
        if model.body_rootid[model.geom_bodyid[geom]] != model.body_rootid[root] or not model.geom_contype[geom]:
            continue
        points = _geom_points(model, geom)
        world = points @ np.array(env.sim.data.geom_xmat[geom]).reshape(3, 3).T + env.sim.data.geom_xpos[geom]
        clouds.append((world - position) @ rotation)
    if not clouds:
        raise SimulatorError(f"object {name!r} has no collision geometry: it cannot be grasped or filled")
    return np.concatenate(clouds)


def body_points(env: LiberoEnv, body: int) -> Array:
    """Collision points [P, 3] of one moving body of a fixture, a drawer for example, in its own frame."""
    model, data = env.sim.model._model, env.sim.data
    rotation, position = np.array(data.body_xmat[body]).reshape(3, 3), np.array(data.body_xpos[body])
    geoms = [g for g in range(model.ngeom) if model.geom_bodyid[g] == body and model.geom_contype[g]]
    world = [_geom_points(model, g) @ np.array(data.geom_xmat[g]).reshape(3, 3).T + data.geom_xpos[g] for g in geoms]
    return np.asarray((np.concatenate(world) - position) @ rotation)


def footprint(points_P3: Array) -> Footprint:
    """Least-area rectangle of world points [P, 3] seen from above (1 degree steps), and their height range."""
    angles = np.deg2rad(np.arange(0.0, 90.0, 1.0))
    along = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # [90, 2]
    across = np.stack([-np.sin(angles), np.cos(angles)], axis=1)
    u, v = points_P3[:, :2] @ along.T, points_P3[:, :2] @ across.T  # [P, 90]
    width_u, width_v = np.ptp(u, axis=0), np.ptp(v, axis=0)
    best = int(np.argmin(width_u * width_v))
    middle = np.array([(u[:, best].max() + u[:, best].min()) / 2, (v[:, best].max() + v[:, best].min()) / 2])
    centre = middle[0] * along[best] + middle[1] * across[best]
    u_is_narrow = width_u[best] <= width_v[best]
    yaw = angles[best] if u_is_narrow else angles[best] + np.pi / 2
    narrow, wide = sorted((float(width_u[best]), float(width_v[best])))
    heights = points_P3[:, 2]
    return Footprint(centre, narrow, wide, float(wrap_half_turn(yaw)), float(heights.min()), float(heights.max()))


def wrap_half_turn(angle: float) -> float:
    """The same line direction in -pi/2..pi/2 (a gripper turned by half a turn grasps the same way)."""
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)
