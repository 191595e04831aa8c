# SPDX-License-Identifier: Apache-2.0
"""The suites beyond the published five that the installed package knows, LIBERO-PRO's among them.

They are derived from a published one: `libero_object_swap`, `_object`, `_lan`, `_task`, `libero_goal_with_mug`, ...
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lightwam.errors import SimulatorError
from lightwam.sim.env import Task
from lightwam.sim.libero.boundary import path_remedy, quiet, simulator_errors
from lightwam.sim.libero.env import SUITES, import_libero, load_tasks

_REWORDED = ("_lan", "_task")  # their task files have instructions of their own; the package tells the usual ones
_LANGUAGE = re.compile(r"\(:language\s+([^()]*)\)")
_REMEDY = "`lightwam eval --list-suites` says which can"


@cache
def more_suites() -> tuple[str, ...]:
    """Names of the suites that extend a published one by `_`, and `libero_90`'s like, in the package's order."""
    benchmark, _, _ = import_libero()
    known = getattr(benchmark, "get_benchmark_dict", dict)
    with simulator_errors("listing LIBERO's suites", lambda _: path_remedy()), quiet():
        names = [str(name) for name in known()]
    return tuple(name for name in names if name not in SUITES and name.startswith(tuple(f"{s}_" for s in SUITES)))


@cache
def tasks_of(suite: str) -> tuple[Task, ...]:
    """The tasks of any suite. Raises SimulatorError where it cannot run: files are missing, the package refuses it."""
    if suite in SUITES:
        return load_tasks(suite)
    benchmark, _, _ = import_libero()
    with simulator_errors(f"LIBERO's suite {suite!r}", _REMEDY), quiet():
        package: Any = benchmark.get_benchmark(suite)()
        tasks = load_tasks(suite)
        scenes = [Path(package.get_task_bddl_file_path(task.index)) for task in tasks]
    missing = [scene for scene in scenes if not scene.is_file()]
    if missing or not tasks:
        told = f"{len(missing)} of {len(tasks)} task files are missing in {missing[0].parent}" if missing else "no task"
        raise SimulatorError(f"LIBERO's suite {suite!r} cannot run in the installed package ({told}): {_REMEDY}")
    with simulator_errors(f"LIBERO's suite {suite!r}: reading initial states", _REMEDY), quiet():
        package.get_task_init_states(0)
    if not suite.endswith(_REWORDED):
        return tasks
    return tuple(
        replace(task, instruction=_instruction(scene, task)) for task, scene in zip(tasks, scenes, strict=True)
    )


def _instruction(scene: Path, task: Task) -> str:
    """What the task file says; the task's own where it says nothing."""
    found = _LANGUAGE.search(scene.read_text(encoding="utf-8", errors="replace"))
    return " ".join(found[1].split()) if found else task.instruction
