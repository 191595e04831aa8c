# SPDX-License-Identifier: Apache-2.0
"""Where a goal's object goes: into or onto another object, or into a region that the task file names.

Lengths in metres, world frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lightwam.sim.env import Array
from lightwam.sim.libero.env import LiberoEnv
from lightwam.sim.libero.geometry import Footprint, collision_points, footprint

_SLOT = 0.055  # what shares a region stands so far from its middle
_ROBOT = ("robot0_", "gripper0_")
_COLLISION_GROUP = np.array([1, 0, 0, 0, 0, 0], dtype=np.uint8)


def place_of(env: LiberoEnv, word: str, slot: float = 0.0) -> Callable[[], Footprint]:
    """Gives the present footprint of the place that a goal calls `word`.

    A movable object is a place as a whole; so is its only region (a basket's). Another region is the box of its site,
    at least as high as what is under its middle now. slot: -1..1, which part along x of a region that several share.
    """
    site = env.raw.object_sites_dict.get(word)
    parent = word if site is None else site.parent_name
    regions = [name for name, other in env.raw.object_sites_dict.items() if other.parent_name == parent]
    if site is None or (parent in env.raw.objects_dict and len(regions) == 1):
        points_P3 = collision_points(env, parent)
        return lambda: footprint(points_P3 @ env.object_rotation(parent).T + env.object_position(parent))
    number = env.sim.model.site_name2id(word)
    corners_83 = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T * np.asarray(site.size)

    def box() -> Footprint:
        rotation = np.array(env.sim.data.site_xmat[number]).reshape(3, 3)
        return footprint(corners_83 @ rotation.T + env.sim.data.site_xpos[number])

    bare = box()
    rise = max(surface_height(env, bare.centre_xy) - bare.top, 0.0)

    def place() -> Footprint:
        found = box()
        return replace(found, centre_xy=found.centre_xy + np.array([slot * _SLOT, 0.0]), top=found.top + rise)

    return place


def surface_height(env: LiberoEnv, xy: Array, start: float | None = None, without: int = -1) -> float:
    """Height (m) of the highest collision surface at a point [2] below `start`; the robot's own don't count.

    start: default 1 m over the table. without: a body that does not count either.
    """
    import mujoco  # after LIBERO, which sets what renders

    model, data = env.sim.model._model, env.sim.data._data
    table = float(env.raw.workspace_offset[2])
    height = table + 1.0 if start is None else start
    geom = np.full(1, -1, dtype=np.int32)
    while True:
        origin, down = np.array([*xy, height]), np.array([0.0, 0.0, -1.0])
        distance = float(mujoco.mj_ray(model, data, origin, down, _COLLISION_GROUP, 1, without, geom))
        if distance < 0.0:
            return table
        height -= distance
        if not env.sim.model.body_id2name(int(model.geom_bodyid[geom[0]])).startswith(_ROBOT):
            return height
        height -= 1e-4
