# SPDX-License-Identifier: Apache-2.0
"""A scripted expert for whole goals: the experts of their predicates, one after the other."""

from __future__ import annotations

from typing import Protocol

from lightwam.sim.env import Decision, Expert
from lightwam.sim.libero.drawers import DrawerExpert
from lightwam.sim.libero.env import LiberoEnv
from lightwam.sim.libero.expert import PickPlaceExpert
from lightwam.sim.libero.goals import Subgoal, subgoals
from lightwam.sim.libero.knobs import KnobExpert


class Stage(Expert, Protocol):
    """An expert for one predicate."""

    def done(self) -> bool:
        """Whether the next stage may begin."""


class GoalExpert(Expert):
    """Works on the first stage that is not done; every action follows from the present state alone.

    Raises SimulatorError for a goal that it does not know how to reach.
    """

    def __init__(self, env: LiberoEnv) -> None:
        self.env = env
        self.subgoals = subgoals(env.goal(), drawers_of(env), env.task.name)
        self.stages = [self._stage(subgoal) for subgoal in self.subgoals]

    def decide(self) -> Decision:
        """The clean action for the simulator's present state."""
        for subgoal, stage in zip(self.subgoals, self.stages, strict=True):
            if subgoal.until is not None and self.env.holds(subgoal.until):
                continue
            if not stage.done():
                return stage.decide()
        return self.stages[-1].decide()

    def _stage(self, subgoal: Subgoal) -> Stage:
        if subgoal.verb in ("open", "close"):
            return DrawerExpert(self.env, subgoal.predicate)
        if subgoal.verb == "turnon":
            return KnobExpert(self.env, subgoal.predicate)
        sharing = [other.predicate for other in self.subgoals if other.predicate[2:] == subgoal.predicate[2:]]
        number = sharing.index(subgoal.predicate)
        slot = 2 * number / (len(sharing) - 1) - 1 if len(sharing) > 1 else 0.0
        return PickPlaceExpert(self.env, predicate=subgoal.predicate, slot=slot)


def drawers_of(env: LiberoEnv) -> list[str]:
    """Regions inside a drawer: those that a joint moves."""
    return [name for name, site in env.raw.object_sites_dict.items() if site.joints]
