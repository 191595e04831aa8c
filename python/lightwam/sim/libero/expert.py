# SPDX-License-Identifier: Apache-2.0
"""A scripted expert that picks one object up and puts it into (or onto) another, from privileged state.

It is Markov: every action follows from the simulator state alone, so it can take over from any state, retries after an
empty grasp, and gives a clean label for every state that noise or a policy leads to.
Units: metres, radians; actions are the environment's: 6 deltas in +-1 (0.05 m, 0.5 rad) and the gripper (-1 open).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightwam.sim.env import Array, Decision, Expert
from lightwam.sim.libero.arm import CANONICAL_YAW, Arm
from lightwam.sim.libero.env import CLOSE_GRIPPER, OPEN_GRIPPER, LiberoEnv
from lightwam.sim.libero.geometry import Footprint, collision_points, footprint
from lightwam.sim.libero.places import place_of


@dataclass(frozen=True)
class ExpertConfig:
    """Tolerances and heights (m) of the scripted expert."""

    hover: float = 0.09  # grip height above the grasp point while not yet aligned
    align_free: float = 0.008  # below this horizontal error the gripper descends freely
    align_hover: float = 0.028  # above it the gripper stays at hover height
    close_xy: float = 0.012
    close_z: float = 0.008
    keep_closing: float = 1.8  # factor on both tolerances once the fingers have started to close
    depth_below_top: float = 0.034  # grasp point below the object's top
    rim_depth: float = 0.012
    widest_grasp: float = 0.072
    clearance: float = 0.035  # of the carried object's bottom over the container's rim
    release_radius: float = 0.022
    release_drop: float = 0.045  # how far the carried object is lowered below carry height before release
    open_enough: float = 0.072
    firm: float = 0.25  # gripper command (-1..1) beyond which a touched object is lifted
    leave: float = 0.06  # of the hand over the place, before something else is done
    round_aspect: float = 1.12  # narrower rectangles than this need no yaw


class PickPlaceExpert(Expert):
    """Expert for a goal's predicate that moves an object ("in" or "on" another one, or a region).

    predicate: default the goal's first one that moves an object. target: another object to move than the predicate's.
    slot: -1..1, which part of a region that several objects share.
    Holds geometry only (object shapes in body frames); build a new one after a hard reset.
    Raises SimulatorError where the goal moves no object to a place.
    """

    def __init__(
        self, env: LiberoEnv, config: ExpertConfig | None = None, target: str | None = None,
        predicate: Sequence[str] | None = None, slot: float = 0.0,
    ) -> None:  # fmt: skip
        self.env = env
        self.arm = Arm(env)
        self.config = config or ExpertConfig()
        self.predicate = tuple(predicate or env.moving_predicate())
        self.target = target or self.predicate[1]
        self.place = env.owner(self.predicate[2])
        self._target_points = collision_points(env, self.target)
        self._place = place_of(env, self.predicate[2], slot)
        self._is_region = self.place != self.predicate[2] and self.place not in env.raw.objects_dict

    def decide(self) -> Decision:
        """The clean action for the simulator's present state."""
        target = self._footprint()
        place = self._place()
        if self.holding():
            return self._carry(target, place)
        over_place = bool(np.linalg.norm(target.centre_xy - place.centre_xy) < 0.45 * place.narrow_width)
        if over_place and target.bottom < place.top:
            return self._retreat(place)
        if over_place:  # released, still falling
            return Decision(self.arm.upright(np.zeros(3), 0.0, OPEN_GRIPPER), "release")
        return self._pick(target)

    def done(self) -> bool:
        """Whether the object is in its place and the hand has left it."""
        place = self._place()
        clear = self.env.grip_position()[2] > place.top + self.config.leave
        return clear and not self.holding() and self.env.holds(self.predicate)

    def holding(self) -> bool:
        """True while both finger pads touch the target object and the gripper's command is to close."""
        gripper = self.env.raw.robots[0].gripper
        touched = self.env.raw._check_grasp(gripper=gripper, object_geoms=self.env.raw.objects_dict[self.target])
        return bool(touched) and self.gripper_command() > self.config.firm

    def gripper_command(self) -> float:
        """The gripper's integrated command, -1 fully open to +1 fully closed."""
        return self.arm.gripper_command()

    def grasp_point(self) -> Array:
        """Where the grip site [3] has to be before the fingers close."""
        return self._grasp(self._footprint())[0]

    def target_bottom(self) -> float:
        """Height (m) of the target object's lowest point."""
        return self._footprint().bottom

    def upright_action(self, move: Array, gripper: float) -> Array:
        """The action [7] that moves the grip site by `move` [3] (m), tool upright, fingers in their canonical yaw."""
        return self.arm.upright(move, self.arm.yaw_error(None), gripper)

    # -- phases -------------------------------------------------------------------------------------------------

    def _pick(self, target: Footprint) -> Decision:
        c, env = self.config, self.env
        grasp, yaw = self._grasp(target)
        offset = grasp - env.grip_position()
        error_xy, height = float(np.linalg.norm(offset[:2])), float(-offset[2])
        yaw_error = self.arm.yaw_error(yaw)
        opening = env.finger_opening()
        width = target.narrow_width if target.narrow_width <= c.widest_grasp else 0.01
        started = opening < c.open_enough
        factor = c.keep_closing if started else 1.0
        in_place = error_xy < c.close_xy * factor and abs(height) < c.close_z * factor and abs(yaw_error) < 0.2
        if in_place and opening > 0.6 * width:
            return Decision(self.arm.upright(offset, yaw_error, CLOSE_GRIPPER), "close")
        if started and height < 0.75 * c.hover:  # an empty or half-closed gripper beside the object: open, rise
            return Decision(self.arm.upright(np.array([0.0, 0.0, c.hover - height]), yaw_error, OPEN_GRIPPER), "reopen")
        misaligned = max(error_xy, 0.06 * abs(yaw_error))
        share = float(np.clip((misaligned - c.align_free) / (c.align_hover - c.align_free), 0.0, 1.0))
        move = np.array([offset[0], offset[1], share * c.hover - height])
        if height < 0.7 * c.hover and share > 0.99:  # too low to move sideways without pushing the object over
            move[:2] = 0.0
        return Decision(self.arm.upright(move, yaw_error, OPEN_GRIPPER), "descend" if share < 1.0 else "approach")

    def _carry(self, target: Footprint, place: Footprint) -> Decision:
        c = self.config
        grip = self.env.grip_position()
        to_place = place.centre_xy - target.centre_xy
        distance = float(np.linalg.norm(to_place))
        carry_height = place.top + c.clearance + (grip[2] - target.bottom)
        if distance < c.release_radius:
            lower = carry_height - c.release_drop - grip[2]
            if lower > -0.012:
                return Decision(self.arm.upright(np.zeros(3), self.arm.yaw_error(None), OPEN_GRIPPER), "release")
            return Decision(self.arm.upright(np.array([*to_place, lower]), 0.0, CLOSE_GRIPPER), "lower")
        missing = carry_height - grip[2]
        freedom = float(np.clip((0.06 - missing) / 0.04, 0.0, 1.0))  # sideways only near carry height
        if distance > 0.5 * place.wide_width + 0.10:
            freedom = max(freedom, float(np.clip((grip[2] - target.bottom + 0.02 - missing) / 0.05, 0.0, 1.0)))
        move = np.array([*(freedom * to_place), missing])
        return Decision(self.arm.upright(move, self.arm.yaw_error(None), CLOSE_GRIPPER), "lift" if freedom < 1 else "carry")

    def _retreat(self, place: Footprint) -> Decision:
        rise = place.top + 0.10 - self.env.grip_position()[2]
        return Decision(self.arm.upright(np.array([0.0, 0.0, max(rise, 0.0)]), 0.0, OPEN_GRIPPER), "retreat")

    # -- geometry and control -----------------------------------------------------------------------------------

    def _points(self) -> Array:
        rotation, position = self.env.object_rotation(self.target), self.env.object_position(self.target)
        return np.asarray(self._target_points @ rotation.T + position)

    def _footprint(self) -> Footprint:
        return footprint(self._points())

    def _grasp(self, target: Footprint) -> tuple[Array, float | None]:
        """Grasp point [3] and the yaw of the closing direction (None: any)."""
        c = self.config
        height = max(target.top - c.depth_below_top, target.bottom + 0.012)
        if target.narrow_width > c.widest_grasp:  # a rim grasp: fingers on both sides of the wall
            rim = target.centre_xy + np.array([0.0, 0.5 * target.wide_width - 0.005])
            return np.array([*rim, target.top - c.rim_depth]), CANONICAL_YAW
        needs_yaw = target.wide_width > c.round_aspect * target.narrow_width
        return np.array([*target.centre_xy, height]), target.narrow_yaw if needs_yaw else None
