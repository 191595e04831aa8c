# SPDX-License-Identifier: Apache-2.0
"""Success of a policy in a simulator under a named protocol. What is done is kept, whatever ends the evaluation."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightwam.progress import counting_bar, tally_bar
from lightwam.sim.closed_loop import Trial, simulators
from lightwam.sim.crew import Alone, Crew
from lightwam.sim.env import Simulator
from lightwam.sim.films import Films
from lightwam.sim.journal import Journal, journal_path, open_journal
from lightwam.sim.plan import UNPERTURBED, Job, Key, TrialPlan
from lightwam.sim.policies import PolicyLike
from lightwam.sim.reports import environment_report, figures, heading, write_report
from lightwam.sim.tables import rows

log = logging.getLogger(__name__)


def evaluate(
    simulator: Simulator,
    policy: PolicyLike,
    file: Path,
    plan: TrialPlan,
    out: Path,
    *,
    crew: Crew | None = None,
    films: Films | None = None,
    beside: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Run the plan with the policy of `file`; writes the report, which keeps the reports `beside` it, and returns it.

    Trials that an earlier, unfinished evaluation of the same finished (`journal`) are not run again. Whatever ends
    this one, `out` then says what is done and what is missing. crew: who runs the trials; None: this process, with
    `policy`. films: which trials are filmed (a crew knows that by itself); failures get contact sheets.
    Raises SimulatorError where the simulator fails; ConfigError, DataError as `open_journal`.
    """
    films = films or Films()
    crew = crew or Alone(simulator, policy, plan, films)
    about = {**heading(file, policy, plan), "settle_steps": plan.protocol.settle_steps}
    about["protocol_values"] = plan.protocol.as_json()
    about["conditions"] = _identity(simulator, plan, about)
    about["videos"] = films.beside(out)
    with open_journal(journal_path(out), about["conditions"]) as journal:
        done = journal.count()
        if done:
            log.info("%d of %d trials are done already, by %s", done, len(plan), journal.path)
        try:
            _run(plan, crew, journal)
            films.sheets(_failures(plan, journal))
        except BaseException as error:
            if journal.count():
                _write_unfinished(out, _report(simulator, plan, about, journal, beside), plan, journal, error)
            raise
        report = _report(simulator, plan, about, journal, beside)
        write_report(out, report)
    return report


def _run(plan: TrialPlan, crew: Crew, journal: Journal) -> None:
    """Check the starts of all tasks that have trials to run, then run them. Of one task its own environment checks."""
    jobs = [job for job in plan.jobs() if job.index not in journal.trials.get(job.key, {})]
    tasks = list(dict.fromkeys(job.task for job in jobs))
    if len(tasks) > 1 or len(plan.perturbations) > 1:
        with counting_bar("start states", True) as on_progress, contextlib.closing(crew.do(tasks)) as checked:
            for number, _ in enumerate(checked):
                on_progress(number + 1, len(tasks))
    label = f"{', '.join(plan.suites)}, {plan.states}"
    solved = sum(trial.success for trials in journal.trials.values() for trial in trials.values())
    with (
        tally_bar(label, len(plan), "solved", done=len(plan) - len(jobs)) as advance,
        contextlib.closing(crew.do(jobs)) as results,
    ):
        advance(0, solved)
        for job, trial in results:
            assert isinstance(job, Job) and trial is not None
            journal.add(job.key, trial)
            advance(1, int(trial.success))


def _failures(plan: TrialPlan, journal: Journal) -> list[Job]:
    return [job for job in plan.jobs() if not journal.trials[job.key][job.index].success]


def _identity(simulator: Simulator, plan: TrialPlan, about: dict[str, Any]) -> dict[str, Any]:
    """All that trials depend on, by name: the policy's content, tasks, states, options, simulator and versions."""
    rules, environment = plan.protocol, environment_report(simulator)
    names = ("policy_sha256", "suite", "tasks", "states", "protocol", "executed_steps_a_chunk", "settle_steps")
    return {
        "simulator": simulator.name,
        **{name: about[name] for name in names},
        "first_trial": plan.indices.start,
        "trials": len(plan.indices),
        "perturbations": list(plan.perturbations),
        "seed": rules.seed,
        **{f"step limit of {suite}": rules.step_limit(suite) for suite in plan.suites},
        "runs_on": re.sub(r", \d+ threads? \([^)]*\)", "", about["runs_on"]),  # no trial depends on their number
        "renderer": environment["renderer"],
        **{f"version of {name}": version for name, version in environment["versions"].items()},
    }


def task_entry(suite: str, index: int, perturb: str, instruction: str, trials: Sequence[Trial]) -> dict[str, Any]:
    """What a report says of a task under a perturbation."""
    told = {"suite": suite, "task": index, "perturb": perturb, "instruction": instruction}
    runs = [trial.as_json() for trial in trials]
    return {**told, **figures(trials), **simulators(runs), "runs": runs}


def _report(
    simulator: Simulator, plan: TrialPlan, about: dict[str, Any], journal: Journal, beside: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    keys = [(task, perturb) for task in plan.tasks for perturb in plan.perturbations]
    per_task = [
        task_entry(task.suite, task.index, perturb, task.instruction, journal.of((task.suite, task.index, perturb)))
        for task, perturb in keys
    ]
    return {
        **about,
        **figures([trial for task, perturb in keys for trial in journal.of((task.suite, task.index, perturb))]),
        "rows": rows(per_task),
        "per_task": per_task,
        "beside": list(beside),
        "environment": environment_report(simulator),
    }


def _write_unfinished(
    out: Path, report: dict[str, Any], plan: TrialPlan, journal: Journal, error: BaseException
) -> None:
    """Write a report of the trials that are done, with those that are `missing`, and why it ended."""
    missing: dict[str, list[int]] = {}
    for job in plan.jobs():
        if job.index not in journal.trials.get(job.key, {}):
            missing.setdefault(_told(job.key, plan), []).append(job.index)
    number = getattr(error, "signal", signal.SIGINT) if isinstance(error, KeyboardInterrupt) else None
    reason = f"interrupted by {number.name}" if number else " ".join(f"{type(error).__name__}: {error}".split())
    try:
        write_report(out, {**report, "unfinished": {"reason": reason, "missing": missing}})
    except OSError as failure:
        log.warning("the report %s could not be written (%s)", out, failure.strerror)
    told = "%d of %d trials are done: the same command goes on from there (%s)"
    log.warning(told, journal.count(), len(plan), journal.path)


def _told(key: Key, plan: TrialPlan) -> str:
    """A task as `missing` names it: its number, and suite and perturbation where there are several."""
    suite, task, perturb = key
    name = str(task) if len(plan.suites) == 1 else f"{suite} {task}"
    return name if perturb == UNPERTURBED else f"{name} {perturb}"
