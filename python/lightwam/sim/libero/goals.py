# SPDX-License-Identifier: Apache-2.0
"""What the goal of a LIBERO task demands, in the order in which the scripted expert does it.

A goal is a conjunction of predicates as the task file has them: ["in", object, region], ["on", object, object or
region], ["open", region], ["close", region], ["turnon", fixture].
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lightwam.errors import SimulatorError
from lightwam.sim.env import Task

_TURN = {"turnon": 0, "open": 1, "on": 2, "in": 2, "close": 3}  # verbs in the order in which they are done
_DRAWER = re.compile(r".*cabinet_\d+_(top|middle|bottom)_region")
_KNOWN = "it moves objects, opens and closes drawers, and turns stoves on"
NOT_SOLVED = {  # suite, task -> why, where the predicates alone don't tell
    ("libero_goal", 3): "the bowl stands so close that the hand pushes the opened drawer shut again",
    ("libero_goal", 5): "the plate's rim is too flat to grasp, and it pushes nothing",
    ("libero_10", 2): "the moka pot is as wide as the fingers open, and is not grasped at its knob",
    ("libero_10", 3): "the opened drawer leaves no room to grasp the bowl's rim",
    ("libero_10", 8): "the moka pot is as wide as the fingers open, and is not grasped at its knob",
}


@dataclass(frozen=True)
class Subgoal:
    """One predicate to bring about. `until`: it is needed only until this other predicate holds."""

    predicate: tuple[str, ...]
    until: tuple[str, ...] | None = None

    @property
    def verb(self) -> str:
        return self.predicate[0]

    @property
    def moves(self) -> bool:
        """Whether an object goes to a place."""
        return self.verb in ("on", "in")


def subgoals(goal: Sequence[Sequence[str]], task: Task) -> tuple[Subgoal, ...]:
    """The predicates of a task's goal in the order of work; a drawer is opened before something goes into it.

    Raises SimulatorError where the expert does not know how to bring one about, or is known not to solve the task.
    """
    refused = f"the scripted expert does not solve {task.suite} task {task.index} ({task.instruction!r})"
    if (task.suite, task.index) in NOT_SOLVED:
        raise SimulatorError(f"{refused}: {NOT_SOLVED[task.suite, task.index]}")
    found: list[Subgoal] = []
    for words in goal:
        predicate = tuple(str(word) for word in words)
        if predicate[0] not in _TURN or (predicate[0] in ("open", "close") and not is_drawer(predicate[1])):
            raise SimulatorError(f"{refused}: its goal has {' '.join(predicate)!r}, and {_KNOWN}")
        if len(predicate) == 3 and is_drawer(predicate[2]):
            found.append(Subgoal(("open", predicate[2]), until=predicate))
        found.append(Subgoal(predicate))
    return tuple(sorted(found, key=lambda subgoal: _TURN[subgoal.verb]))


def refusal_of_clips(task: Task) -> str:
    """Why a task has no short clips."""
    told = f"{task.suite} task {task.index} ({task.instruction!r}) is more than moving one object"
    return f"{told}: it is recorded as whole episodes only, give --clips 0"


def check_recording(task: Task, task_file: str, clips: bool) -> None:
    """Whether a task can be recorded, from the text of its file. Raises SimulatorError where it cannot."""
    parts = subgoals(goal_in(task_file), task)
    if clips and not (len(parts) == 1 and parts[0].moves):
        raise SimulatorError(refusal_of_clips(task))


def is_drawer(region: str) -> bool:
    """Whether a region is the inside of a drawer, by its name."""
    return _DRAWER.fullmatch(region) is not None


def goal_in(task_file: str) -> list[list[str]]:
    """The goal's predicates in the text of a task file (BDDL)."""
    _, _, goal = task_file.partition("(:goal")
    return [[verb.lower(), *words.split()] for verb, words in re.findall(r"\(\s*(\w+)\s+([^()]+?)\s*\)", goal)]
