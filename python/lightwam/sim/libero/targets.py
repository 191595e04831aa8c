# SPDX-License-Identifier: Apache-2.0
"""Any object of a scene as the commanded one, so that a policy has to read its instruction.

In such recordings neither the scene nor the place of an object tells which one is commanded: the objects stand at each
other's places, all are moved equally far, and all keep the same distance. Lengths in metres.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from lightwam.errors import SimulatorError
from lightwam.sim.env import Array
from lightwam.sim.libero.env import LiberoEnv, load_tasks
from lightwam.sim.libero.geometry import collision_points, footprint
from lightwam.sim.libero.placements import Spread, region_centres

GOAL_SHARE = 0.4  # of episodes that command the task's own object; the others share the rest evenly
GAP, GAP_TO_PLACE = 0.02, 0.05  # least distance between the circles around two objects, and to the place's
REACH = 0.74  # from the robot's base: further away the arm is nearly straight, and cannot pull back what it grasped
_MOST_DRAWS = 10_000


def _category(name: str) -> str:
    """ "alphabet_soup" of the object "alphabet_soup_1"."""
    return re.sub(r"_\d+$", "", name)


def commands(env: LiberoEnv) -> dict[str, str]:
    """Object -> instruction, for objects of the scene that a task of the suite names in the same words; own goal first.

    Raises SimulatorError where the scene has the goal's object only.
    """
    goal, _ = env.goal_objects()
    instructions = {task.name: task.instruction for task in load_tasks(env.task.suite)}
    found = {goal: env.task.instruction}
    for name in env.raw.objects_dict:
        task_name = env.task.name.replace(_category(goal), _category(name))
        if name != goal and task_name != env.task.name and task_name in instructions:
            found[name] = instructions[task_name]
    if len(found) < 2:
        raise SimulatorError(
            f"no task of {env.task.suite} has another object of {env.task.name!r} in its place: choose --targets goal"
        )
    return found


def draw_target(names: Sequence[str], rng: np.random.Generator) -> str:
    """The object to command; the first of `names` is the task's own."""
    return names[0] if rng.random() < GOAL_SHARE else names[int(rng.integers(1, len(names)))]


def exchanged_state(env: LiberoEnv, rng: np.random.Generator, spread: Spread) -> Array:
    """A fresh random start [N] as `placements.random_state`, but with all objects at each other's places.

    Each is moved as far as a target. What stands too close or too far away is drawn again. The draws don't depend on
    the commanded one. Raises SimulatorError where there is no room.
    """
    env.seed(int(rng.integers(2**31)))
    env.reset()
    state = env.get_state()
    centres = region_centres(env)
    place = env.goal_objects()[1]
    names = [name for name in centres if name != place]
    radii = np.array([_radius(env, name) for name in names])
    base_xy = np.array(env.raw.robots[0].base_pos[:2])
    place_radius = _radius(env, place)
    regions_N2 = np.array([centres[name] for name in names])
    for _ in range(_MOST_DRAWS):
        xy_N2 = regions_N2[rng.permutation(len(names))] + rng.uniform(-spread.target, spread.target, (len(names), 2))
        place_xy = centres[place] + rng.uniform(-spread.place, spread.place, 2)
        between = np.linalg.norm(xy_N2[:, None] - xy_N2, axis=-1) - (radii[:, None] + radii) + 2 * np.eye(len(names))
        to_place = np.linalg.norm(xy_N2 - place_xy, axis=1) - radii - place_radius
        reach = np.linalg.norm(xy_N2 - base_xy, axis=1)
        if between.min() >= GAP and to_place.min() >= GAP_TO_PLACE and reach.max() <= REACH:
            break
    else:
        raise SimulatorError(f"{env.task.name!r}: {_MOST_DRAWS} draws leave no room between its objects")
    for name, xy in zip([*names, place], [*xy_N2, place_xy], strict=True):
        address = env.position_address(name)
        state[address : address + 2] = xy
    return state


def _radius(env: LiberoEnv, name: str) -> float:
    """Radius of the circle around an object's footprint."""
    print_ = footprint(collision_points(env, name) @ env.object_rotation(name).T)
    return 0.5 * float(np.hypot(print_.narrow_width, print_.wide_width))
