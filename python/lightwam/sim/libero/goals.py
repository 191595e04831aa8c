# SPDX-License-Identifier: Apache-2.0
"""What the goal of a LIBERO task demands, in the order in which the scripted expert does it.

A goal is a conjunction of predicates as the task file has them: ["in", object, region], ["on", object, object or
region], ["open", region], ["close", region], ["turnon", fixture].
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lightwam.errors import SimulatorError

_TURN = {"turnon": 0, "open": 1, "on": 2, "in": 2, "close": 3}  # verbs in the order in which they are done


@dataclass(frozen=True)
class Subgoal:
    """One predicate to bring about. `until`: it is needed only until this other predicate holds."""

    predicate: tuple[str, ...]
    until: tuple[str, ...] | None = None

    @property
    def verb(self) -> str:
        return self.predicate[0]


def subgoals(goal: Sequence[Sequence[str]], drawers: Collection[str], task: str) -> tuple[Subgoal, ...]:
    """The predicates of a goal in the order of work; a drawer is opened before something goes into it.

    goal: the task file's predicates. drawers: regions that are the inside of a drawer. task: its name, for errors.
    Raises SimulatorError where the expert does not know how to bring a predicate about.
    """
    found: list[Subgoal] = []
    for words in goal:
        predicate = tuple(str(word) for word in words)
        verb, thing = predicate[0], predicate[1]
        if verb not in _TURN:
            raise SimulatorError(f"goal {' '.join(predicate)!r} of {task!r} is none that the expert knows: {_KNOWN}")
        if verb in ("open", "close") and thing not in drawers:
            raise SimulatorError(f"goal {' '.join(predicate)!r} of {task!r} moves a hinged door: {_KNOWN}")
        if verb in ("in", "on") and predicate[2] in drawers:
            found.append(Subgoal(("open", predicate[2]), until=predicate))
        found.append(Subgoal(predicate))
    return tuple(sorted(found, key=lambda subgoal: _TURN[subgoal.verb]))


_KNOWN = "it moves objects, opens and closes drawers, and turns stoves on"
