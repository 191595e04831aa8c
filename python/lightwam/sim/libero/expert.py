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
from lightwam.sim.libero.places import place_of, surface_height

_RIM_SIDES = ((0.0, 1.0, CANONICAL_YAW), (0.0, -1.0, CANONICAL_YAW), (-1.0, 0.0, 0.0), (1.0, 0.0, 0.0))  # x, y, yaw
_OUTER_FINGER = (0.04, 0.048, 0.056)  # m from the grip site, where the outer one of the open fingers stands


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
    rim_insets: tuple[float, ...] = (0.005, 0.02, 0.03)  # of the grip site, from the outermost point of the rim
    flat: float = 0.025  # a lower rim, a plate's, is grasped so far from its edge
    knob_height: float = 0.02  # the uppermost part of a wide object, grasped where it is narrow
    widest_grasp: float = 0.072
    clearance: float = 0.035  # of the carried object's bottom over the container's rim
    release_radius: float = 0.022
    release_drop: float = 0.045  # how far the carried object is lowered below carry height before release
    open_enough: float = 0.072
    firm: float = 0.25  # gripper command (-1..1) beyond which a touched object is lifted
    turned: float = 0.15  # rad, before what has to fit is lowered
    reach: float = 0.735  # of the hand from the robot's base
    leave: float = 0.08  # of the hand over the place, before something else is done
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
        self._on_table = float(env.raw.workspace_offset[2]) > 0.0  # there objects stand on others, and in drawers
        self._is_region = self.place not in env.raw.objects_dict

    def decide(self) -> Decision:
        """The clean action for the simulator's present state."""
        target = self._footprint()
        place = self._place()
        if self.holding():
            return self._carry(target, place)
        over_place = bool(np.linalg.norm(target.centre_xy - place.centre_xy) < 0.45 * place.narrow_width)
        if over_place and (target.bottom < place.top or (self._is_region and self.env.holds(self.predicate))):
            return self._retreat(place)
        if over_place:  # released, still falling
            return Decision(self.arm.upright(np.zeros(3), 0.0, OPEN_GRIPPER), "release")
        return self._pick(target)

    def done(self) -> bool:
        """Whether the object is in its place, and the hand has left it or holds something else."""
        place, grip = self._place(), self.env.grip_position()
        high = grip[2] > place.top + self.config.leave
        away = float(np.linalg.norm(grip[:2] - place.centre_xy)) > 0.5 * place.wide_width + self.config.leave
        left = high or away or self.gripper_command() > 0.0
        return bool(left) and not self.holding() and self.env.holds(self.predicate)

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

    def target_xy(self) -> Array:
        """Where [2] the object is."""
        return self.env.object_position(self.target)[:2]

    def place_xy(self) -> Array:
        """Where [2] the place's object is, or the middle of a region."""
        return self._place().centre_xy if self._is_region else self.env.object_position(self.place)[:2]

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
        turn, radius = self._fit(target, place)
        carry_height = place.top + c.clearance + (grip[2] - target.bottom)
        if distance < radius and abs(turn) < c.turned:
            lower = carry_height - c.release_drop - grip[2]
            if lower > -0.012:
                return Decision(self.arm.upright(np.zeros(3), turn, OPEN_GRIPPER), "release")
            return Decision(self.arm.upright(np.array([*to_place, lower]), 0.0, CLOSE_GRIPPER), "lower")
        missing = carry_height - grip[2]
        if self._on_table and distance > 0.5 * place.wide_width + 0.10:
            rise = self._highest_around(target, to_place / distance) + c.clearance - target.bottom
            if rise > missing:
                freedom = float(np.clip((0.03 - rise) / 0.02, 0.0, 1.0))
                move = np.array([*(freedom * to_place), rise])
                return Decision(
                    self.arm.upright(move, freedom * turn, CLOSE_GRIPPER), "lift" if freedom < 1 else "carry"
                )
        freedom = float(np.clip((0.06 - missing) / 0.04, 0.0, 1.0))  # sideways only near carry height
        if distance > 0.5 * place.wide_width + 0.10:
            freedom = max(freedom, float(np.clip((grip[2] - target.bottom + 0.02 - missing) / 0.05, 0.0, 1.0)))
        move = np.array([*(freedom * to_place), missing])
        return Decision(self.arm.upright(move, turn, CLOSE_GRIPPER), "lift" if freedom < 1 else "carry")

    def _highest_around(self, target: Footprint, direction: Array) -> float:
        """Height of the highest surface beside and before what is carried in a direction [2]."""
        body, radius = self.env.raw.obj_body_id[self.target], 0.5 * target.wide_width
        aside = np.array([-direction[1], direction[0]])
        reaches = ((direction, 0.02), (direction, 0.05), (direction, 0.08), (aside, 0.02), (-aside, 0.02))
        around = [target.centre_xy + (radius + gap) * side for side, gap in reaches]
        return max(surface_height(self.env, xy, without=body) for xy in around)

    def _fit(self, target: Footprint, place: Footprint) -> tuple[float, float]:
        """How far to turn what is carried, and how far from the place's middle (m) it may be released."""
        c = self.config
        if not self._is_region:
            return self.arm.yaw_error(None), c.release_radius
        radius = float(np.clip(0.5 * (place.narrow_width - target.narrow_width), c.align_free, c.release_radius))
        if target.wide_width < max(place.narrow_width, c.round_aspect * target.narrow_width):
            return self.arm.yaw_error(None), radius
        return self.arm.yaw_error(self.arm.yaw() + place.narrow_yaw - target.narrow_yaw), radius

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
        if target.narrow_width > c.widest_grasp:
            return self._grasp_of_wide(target)
        needs_yaw = target.wide_width > c.round_aspect * target.narrow_width
        return np.array([*target.centre_xy, height]), target.narrow_yaw if needs_yaw else None

    def _grasp_of_wide(self, target: Footprint) -> tuple[Array, float | None]:
        """A knob on top, or else the rim: the fingers on both sides of the wall, where there is room for the outer one.

        Nearer the middle where the room is narrow: closing the fingers pulls the object there.
        """
        c = self.config
        points = self._points()
        knob = footprint(points[points[:, 2] > target.top - c.knob_height])
        height = target.top - c.rim_depth
        if knob.wide_width < c.widest_grasp:
            return np.array([*knob.centre_xy, height]), knob.narrow_yaw
        sides = [(np.array([x, y]), yaw) for x, y, yaw in _RIM_SIDES]
        insets = c.rim_insets if target.top - target.bottom > c.flat else (c.flat,)
        choices = [(side, 0.5 * target.wide_width - inset, yaw) for inset in insets for side, yaw in sides]
        for choice in choices:
            if self._has_room(target.centre_xy + choice[1] * choice[0], choice[0], height):
                break
        else:
            choice = choices[0]
        side, radius, yaw = choice
        return np.array([*(target.centre_xy + radius * side), height]), yaw

    def _has_room(self, rim: Array, outwards: Array, height: float) -> bool:
        """Whether the arm reaches a point of the rim, and its outer finger stands in nothing there."""
        if np.linalg.norm(rim - self.env.raw.robots[0].base_pos[:2]) > self.config.reach:
            return False
        body = self.env.raw.obj_body_id[self.target]
        fingers = (rim + gap * outwards for gap in _OUTER_FINGER)
        return all(surface_height(self.env, xy, height + 0.3, body) < height - 0.015 for xy in fingers)
