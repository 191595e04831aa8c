# SPDX-License-Identifier: Apache-2.0
"""Success of a policy in a simulator under a named protocol. What is done is kept, whatever ends the evaluation."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightwam.progress import counting_bar
from lightwam.sim.closed_loop import OpenFilm, TrialPlan, run_trials, start_states
from lightwam.sim.env import Simulator, Task
from lightwam.sim.journal import Journal, journal_path, open_journal
from lightwam.sim.policies import PolicyLike
from lightwam.sim.reports import environment_report, figures, heading, write_report
from lightwam.sim.video import compose_frame, open_video

log = logging.getLogger(__name__)


def evaluate(
    simulator: Simulator,
    policy: PolicyLike,
    file: Path,
    plan: TrialPlan,
    out: Path,
    *,
    videos: Path | None = None,
    beside: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Run the plan with the policy of `file`; writes the report, which keeps the reports `beside` it, and returns it.

    Trials that an earlier, unfinished evaluation of the same finished (`journal`) are not run again. Whatever ends
    this one, `out` then says what is done and what is missing. videos: a folder for one mp4 a trial.
    Raises SimulatorError where the simulator fails; ConfigError, DataError as `open_journal`.
    """
    about = {**heading(file, policy, plan), "settle_steps": plan.protocol.settle_steps}
    with open_journal(journal_path(out), _identity(simulator, plan, about)) as journal:
        done = journal.count()
        if done:
            log.info("%d of %d trials are done already, by %s", done, _trials(plan), journal.path)
        try:
            _check_starts(simulator, plan, journal)
            for task in plan.tasks:
                finished = journal.of(_key(task))
                opener = _films(simulator, task, plan, videos)
                for trial in run_trials(simulator, task, policy, plan, opener, finished):
                    journal.add(_key(task), trial)
        except BaseException as error:
            if journal.count():
                _write_unfinished(out, _report(simulator, plan, about, journal, beside), plan, journal, error)
            raise
        report = _report(simulator, plan, about, journal, beside)
        write_report(out, report)
    return report


def _key(task: Task) -> tuple[str, int]:
    return (task.suite, task.index)


def _trials(plan: TrialPlan) -> int:
    return len(plan.tasks) * len(plan.indices)


def _missing(plan: TrialPlan, journal: Journal, task: Task) -> list[int]:
    done = {trial.index for trial in journal.of(_key(task))}
    return [index for index in plan.indices if index not in done]


def _identity(simulator: Simulator, plan: TrialPlan, about: dict[str, Any]) -> dict[str, Any]:
    """All that trials depend on, by name: the policy's content, tasks, states, options, simulator and versions."""
    rules, environment = plan.protocol, environment_report(simulator)
    names = ("policy_sha256", "suite", "tasks", "states", "protocol", "executed_steps_a_chunk", "settle_steps")
    return {
        "simulator": simulator.name,
        **{name: about[name] for name in names},
        "first_trial": plan.indices.start,
        "trials": len(plan.indices),
        "seed": rules.seed,
        "step_limit": rules.step_limit(plan.tasks[0].suite),
        "runs_on": about["runs_on"],
        "renderer": environment["renderer"],
        **{f"version of {name}": version for name, version in environment["versions"].items()},
    }


def _check_starts(simulator: Simulator, plan: TrialPlan, journal: Journal) -> None:
    """Raises SimulatorError, before the first trial of several tasks, where one has no start.

    Of one task the trials' own environment looks.
    """
    tasks = [task for task in plan.tasks if _missing(plan, journal, task)]
    with counting_bar("start states", len(tasks) > 1) as on_progress:
        for number, task in enumerate(tasks if len(tasks) > 1 else ()):
            with contextlib.closing(simulator.make_env(task, render=False)) as env:
                start_states(env, _missing(plan, journal, task), plan.states)
            on_progress(number + 1, len(tasks))


def _films(simulator: Simulator, task: Task, plan: TrialPlan, videos: Path | None) -> OpenFilm:
    """Opens the film of a trial, in `videos` if given."""

    @contextlib.contextmanager
    def open_film(index: int) -> Iterator[Any]:
        if videos is None:
            yield None
            return
        name = f"{task.suite}_{task.index}_{plan.states}_{index:03d}.mp4"
        with open_video(videos / name, simulator.robot.control_hz) as append:
            yield lambda picture_HWC, _: append(compose_frame(picture_HWC))

    return open_film


def _report(
    simulator: Simulator, plan: TrialPlan, about: dict[str, Any], journal: Journal, beside: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    per_task = []
    for task in plan.tasks:
        trials = journal.of(_key(task))
        told = {"suite": task.suite, "task": task.index, "instruction": task.instruction}
        per_task.append({**told, **figures(trials), "runs": [trial.as_json() for trial in trials]})
    return {
        **about,
        **figures([trial for task in plan.tasks for trial in journal.of(_key(task))]),
        "per_task": per_task,
        "beside": list(beside),
        "environment": environment_report(simulator),
    }


def _write_unfinished(
    out: Path, report: dict[str, Any], plan: TrialPlan, journal: Journal, error: BaseException
) -> None:
    """Write a report of the trials that are done, with those that are `missing`, and why it ended."""
    missing = {str(task.index): _missing(plan, journal, task) for task in plan.tasks}
    number = getattr(error, "signal", signal.SIGINT) if isinstance(error, KeyboardInterrupt) else None
    reason = f"interrupted by {number.name}" if number else " ".join(f"{type(error).__name__}: {error}".split())
    unfinished = {"reason": reason, "missing": {task: indices for task, indices in missing.items() if indices}}
    try:
        write_report(out, {**report, "unfinished": unfinished})
    except OSError as failure:
        log.warning("the report %s could not be written (%s)", out, failure.strerror)
    told = "%d of %d trials are done: the same command goes on from there (%s)"
    log.warning(told, journal.count(), _trials(plan), journal.path)
