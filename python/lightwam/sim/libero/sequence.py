# SPDX-License-Identifier: Apache-2.0
"""A scripted expert for whole goals: the experts of their predicates, one after the other."""

from __future__ import annotations

from typing import Protocol

from lightwam.sim.env import Array, Decision, Expert
from lightwam.sim.libero.arm import Arm
from lightwam.sim.libero.drawers import DrawerExpert
from lightwam.sim.libero.env import LiberoEnv
from lightwam.sim.libero.expert import PickPlaceExpert
from lightwam.sim.libero.goals import Subgoal, subgoals
from lightwam.sim.libero.knobs import KnobExpert


class Stage(Expert, Protocol):
    """An expert for one predicate."""

    arm: Arm

    def target_xy(self) -> Array:
        """Where [2] what it grasps is."""

    def place_xy(self) -> Array:
        """Where [2] that goes."""

    def done(self) -> bool:
        """Whether the next stage may begin."""


class GoalExpert(Expert):
    """Works on the first stage that is not done; every action follows from the present state alone.

    Raises SimulatorError for a goal that it does not know how to reach.
    """

    def __init__(self, env: LiberoEnv) -> None:
        self.env = env
        self.subgoals = subgoals(env.goal(), env.task)
        self.stages = [self._stage(subgoal) for subgoal in self.subgoals]

    def decide(self) -> Decision:
        """The clean action for the simulator's present state."""
        return self._present().decide()

    def holding(self) -> bool:
        """Whether the hand holds an object that it moves."""
        return any(stage.holding() for stage in self.stages if isinstance(stage, PickPlaceExpert))

    def gripper_command(self) -> float:
        """The gripper's integrated command, -1 fully open to +1 fully closed."""
        return self.stages[0].arm.gripper_command()

    def target_xy(self) -> Array:
        """Where [2] what is grasped next is."""
        return self._present().target_xy()

    def place_xy(self) -> Array:
        """Where [2] it goes."""
        return self._present().place_xy()

    def _present(self) -> Stage:
        for subgoal, stage in zip(self.subgoals, self.stages, strict=True):
            needed = subgoal.until is None or not self.env.holds(subgoal.until)
            if needed and not stage.done():
                return stage
        return self.stages[-1]

    def _stage(self, subgoal: Subgoal) -> Stage:
        if subgoal.verb in ("open", "close"):
            return DrawerExpert(self.env, subgoal.predicate)
        if subgoal.verb == "turnon":
            return KnobExpert(self.env, subgoal.predicate)
        sharing = [other.predicate for other in self.subgoals if other.predicate[2:] == subgoal.predicate[2:]]
        number = sharing.index(subgoal.predicate)
        slot = 2 * number / (len(sharing) - 1) - 1 if len(sharing) > 1 else 0.0
        return PickPlaceExpert(self.env, predicate=subgoal.predicate, slot=slot)


def expert_of(env: LiberoEnv) -> PickPlaceExpert | GoalExpert:
    """The expert for the task of an environment. Raises SimulatorError where it is not solved."""
    parts = subgoals(env.goal(), env.task)
    return PickPlaceExpert(env) if len(parts) == 1 and parts[0].moves else GoalExpert(env)
