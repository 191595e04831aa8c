# SPDX-License-Identifier: Apache-2.0
"""What goals demand of the scripted expert, from the text of task files; no simulator."""

from __future__ import annotations

import pytest

from lightwam.errors import SimulatorError
from lightwam.sim.env import Task
from lightwam.sim.libero.goals import check_recording, goal_in, is_drawer, subgoals

TASK = Task("libero_90", 0, "made_up", "do it")
BOWL_IN_DRAWER = """(define (problem made_up)
  (:init (On bowl_1 table_region) (Open white_cabinet_1_bottom_region))
  (:goal (And (Close white_cabinet_1_bottom_region) (In bowl_1 white_cabinet_1_bottom_region)
              (Turnon flat_stove_1))))"""


def test_the_goal_of_a_task_file() -> None:
    assert goal_in(BOWL_IN_DRAWER) == [
        ["close", "white_cabinet_1_bottom_region"],
        ["in", "bowl_1", "white_cabinet_1_bottom_region"],
        ["turnon", "flat_stove_1"],
    ]


def test_the_order_of_work() -> None:
    """A drawer is opened before, and shut after something goes into it, and not opened again once it is in."""
    parts = subgoals(goal_in(BOWL_IN_DRAWER), TASK)
    assert [part.verb for part in parts] == ["turnon", "open", "in", "close"]
    assert parts[1].until == parts[2].predicate and parts[2].until is None
    assert [part.moves for part in parts] == [False, False, True, False]
    assert is_drawer("wooden_cabinet_1_top_region") and not is_drawer("wooden_cabinet_1_top_side")
    assert not is_drawer("wine_rack_1_top_region")


def test_what_is_not_solved_is_refused_by_name() -> None:
    with pytest.raises(SimulatorError, match=r"libero_90 task 0 \('do it'\): its goal has 'close microwave_1'"):
        subgoals([["in", "mug_1", "microwave_1_heating_region"], ["close", "microwave_1"]], TASK)
    with pytest.raises(SimulatorError, match=r"libero_goal task 5 .*rim is too flat"):
        subgoals([["on", "plate_1", "main_table_stove_front_region"]], Task("libero_goal", 5, "push", "push the plate"))


def test_clips_are_of_one_moved_object() -> None:
    check_recording(TASK, BOWL_IN_DRAWER, clips=False)
    check_recording(TASK, "(:goal (And (On bowl_1 plate_1)))", clips=True)
    with pytest.raises(SimulatorError, match="give --clips 0"):
        check_recording(TASK, BOWL_IN_DRAWER, clips=True)
