# SPDX-License-Identifier: Apache-2.0
"""Who runs the trials of an evaluation: this process, worker processes of it (`workers`), or Ray's (`ray_crew`).

Wherever a trial runs, its outcome is the same; a worker that dies has its trial done again by another one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from lightwam.config.robot import RobotConfig
from lightwam.errors import SimulatorError
from lightwam.sim.closed_loop import Trial, TrialRunner, check_task
from lightwam.sim.env import Simulator, Task
from lightwam.sim.films import Films
from lightwam.sim.plan import Job, TrialPlan
from lightwam.sim.policies import PolicyLike, load_policy
from lightwam.sim.registry import load_simulator
from lightwam.workers import WorkerDied, run_jobs

Work = Job | Task  # a trial; or a task whose starts are to be checked
Results = Generator[tuple[Work, Trial | None], None, None]


@dataclass(frozen=True)
class PolicyFile:
    """A policy's file, by content too, and what it runs on."""

    path: Path
    sha256: str
    device: str = "cpu"
    threads: int | None = None
    precision: str = "auto"

    def load(self, robot: RobotConfig, replan_limit: int | None) -> PolicyLike:
        """The policy; raises as `load_policy`."""
        return load_policy(
            self.path, robot, replan_limit=replan_limit, device=self.device, threads=self.threads,
            precision=self.precision,
        )  # fmt: skip


@dataclass(frozen=True)
class Assignment:
    """All that a worker in another process must know; it travels there by pickle. sim: a name of `load_simulator`."""

    sim: str
    policy: PolicyFile
    plan: TrialPlan
    films: Films


class Worker:
    """Does work piece by piece."""

    def __init__(self, simulator: Simulator, policy: PolicyLike, plan: TrialPlan, films: Films) -> None:
        self._simulator, self._plan, self.films = simulator, plan, films
        self._runner = TrialRunner(simulator, policy, plan)

    def do(self, work: Work) -> Trial | None:
        """A trial's outcome; None for a task in which all trials have starts. Raises SimulatorError."""
        if isinstance(work, Task):
            check_task(self._simulator, self._plan, work)
            return None
        return self.films.film(work, self._simulator.robot.control_hz, functools.partial(self._runner.run, work))

    def close(self) -> None:
        """Close what is open."""
        self._runner.close()


def make_worker(to: Assignment) -> Worker:
    """A worker in a process that knows nothing yet."""
    simulator = load_simulator(to.sim)
    policy = to.policy.load(simulator.robot, to.plan.protocol.replan_steps)
    return Worker(simulator, policy, to.plan, to.films)


class Crew(Protocol):
    """Does much work, in any order."""

    def do(self, works: Sequence[Work]) -> Results:
        """Yields each piece of work with its outcome as it comes. Raises SimulatorError, and whatever work raises."""


class Alone:
    """This process, one piece of work after the other."""

    def __init__(self, simulator: Simulator, policy: PolicyLike, plan: TrialPlan, films: Films) -> None:
        self._worker = Worker(simulator, policy, plan, films)

    def do(self, works: Sequence[Work]) -> Results:
        with contextlib.closing(self._worker):
            for work in works:
                yield work, self._worker.do(work)


class Processes:
    """Worker processes, each with one thread unless the policy says otherwise."""

    def __init__(self, to: Assignment, count: int) -> None:
        threads = to.policy.threads or 1
        self._to, self._count = replace(to, policy=replace(to.policy, threads=threads)), count

    def do(self, works: Sequence[Work]) -> Results:
        function = functools.partial(_do_here, self._to)
        results = run_jobs(function, works, self._count, unfinished=self._to.films.folder, group=task_of)
        with contextlib.closing(results):
            try:
                yield from results
            except WorkerDied as error:
                raise SimulatorError(f"{error}: check memory, or give fewer --processes") from error


def task_of(work: Work) -> Task:
    """The task whose environment the work needs."""
    return work if isinstance(work, Task) else work.task


_worker: Worker | None = None  # of this process


def _do_here(to: Assignment, work: Work) -> Trial | None:
    global _worker
    _worker = _worker or make_worker(to)
    return _worker.do(work)
