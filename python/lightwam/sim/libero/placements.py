# SPDX-License-Identifier: Apache-2.0
"""Initial simulator states: the shifted protocol's, and the wider random ones that recordings start from.

Legend: N length of a flat simulator state. Lengths in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightwam.sim.env import Array
from lightwam.sim.libero.env import LiberoEnv

SHIFT_SEED = 777


@dataclass(frozen=True)
class Spread:
    """Half-widths (m) of the uniform moves in x and y."""

    target: float
    place: float
    others: float


SHIFTED = Spread(target=0.04, place=0.03, others=0.01)  # the evaluation protocol
WIDE = Spread(target=0.065, place=0.045, others=0.025)  # recordings
NOMINAL = Spread(target=0.001, place=0.014, others=0.005)  # about how little the official states vary
SPREADS = {"wide": WIDE, "nominal": NOMINAL}


def move_objects(env: LiberoEnv, state_N: Array, spread: Spread, rng: np.random.Generator) -> Array:
    """A copy of a flat state [N] with every movable object moved uniformly in x and y.

    Draw order: the goal's object, the place it goes to, then the others in the order of the task file, x before y.
    What stands on or in another object moves with it, and not at all where that one is a fixture.
    """
    goal = env.goal_objects() if env.moves_an_object() else ()
    half_widths = dict(zip(goal, (spread.target, spread.place), strict=False))
    movable = list(env.raw.objects_dict)  # in the order of the task file
    order = [*(name for name in goal if name in movable), *(name for name in movable if name not in goal)]
    moves = {name: rng.uniform(-half_widths.get(name, spread.others), half_widths.get(name, spread.others), size=2)
             for name in order}  # fmt: skip
    bearers = bearers_of(env)
    moved = np.array(state_N, dtype=np.float64)
    for name in order:
        address = env.position_address(name)
        moved[address : address + 2] += moves.get(bearers.get(name, name), 0.0)
    return moved


def bearers_of(env: LiberoEnv) -> dict[str, str]:
    """Object -> the object or fixture that it stands on or in at the start, where that is not the table or floor."""
    bearers = {}
    for relation in env.raw.parsed_problem["initial_state"]:
        if len(relation) == 3 and relation[1] in env.raw.objects_dict:
            bearer = env.owner(relation[2])
            if bearer in env.raw.objects_dict or bearer in env.raw.fixtures_dict:
                bearers[relation[1]] = bearer
    return bearers


def shifted_state(env: LiberoEnv, official_N: Array, index: int) -> Array:
    """Official state `index` [N] under the shifted protocol: moves drawn from `default_rng(777 + index)`.

    Raises SimulatorError where the goal moves no object.
    """
    env.goal_objects()
    return move_objects(env, official_N, SHIFTED, np.random.default_rng(SHIFT_SEED + index))


def region_centres(env: LiberoEnv) -> dict[str, Array]:
    """Centre [2] of the floor or table region in which the task file places each movable object."""
    problem = env.raw.parsed_problem
    offset = np.asarray(env.raw.workspace_offset)[:2]
    centres: dict[str, Array] = {}
    for relation in problem["initial_state"]:
        if relation[0] != "on" or relation[1] not in env.raw.objects_dict:
            continue
        ranges = problem["regions"].get(relation[2], {}).get("ranges")
        if ranges:
            x0, y0, x1, y1 = ranges[0]
            centres[relation[1]] = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) + offset
    return centres


def random_state(env: LiberoEnv, rng: np.random.Generator, spread: Spread = WIDE) -> Array:
    """A fresh random start [N]: LIBERO's own reset, objects around their regions' centres with `spread`.

    Never one of the official states. The environment is left reset, and must still be put into the returned state.
    """
    env.seed(int(rng.integers(2**31)))
    env.reset()
    state = env.get_state()
    for name, centre in region_centres(env).items():
        address = env.position_address(name)
        state[address : address + 2] = centre
    return move_objects(env, state, spread, rng)
