# SPDX-License-Identifier: Apache-2.0
"""Which trials an evaluation runs: tasks of suites, start states, a protocol, perturbations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lightwam.errors import ConfigError
from lightwam.number_lists import ranges_in
from lightwam.sim.env import EvaluationProtocol, Simulator, Task

UNPERTURBED = "none"

Key = tuple[str, int, str]  # suite, task, perturbation


@dataclass(frozen=True)
class Job:
    """One trial: number `index` of a task under a perturbation (`lightwam.sim.perturb`)."""

    task: Task
    perturb: str
    index: int

    @property
    def key(self) -> Key:
        """What its trials are counted under."""
        return (self.task.suite, self.task.index, self.perturb)


@dataclass(frozen=True)
class TrialPlan:
    """Trials `indices` of each of `tasks` under each of `perturbations`, from `states` of a kind, under `protocol`."""

    tasks: tuple[Task, ...]
    indices: range
    states: str
    protocol: EvaluationProtocol
    perturbations: tuple[str, ...] = (UNPERTURBED,)

    def jobs(self) -> Iterator[Job]:
        """Every trial; those of a task follow each other."""
        for task in self.tasks:
            for perturb in self.perturbations:
                yield from (Job(task, perturb, index) for index in self.indices)

    def __len__(self) -> int:
        return len(self.perturbations) * len(self.tasks) * len(self.indices)

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites, in order."""
        return tuple(dict.fromkeys(task.suite for task in self.tasks))


def plan_trials(
    simulator: Simulator,
    *,
    suites: Sequence[str] = (),
    tasks: Sequence[int | str] | None = None,
    trials: int | None = None,
    first_trial: int = 0,
    states: str | None = None,
    protocol: str | EvaluationProtocol | None = None,
    perturbations: Sequence[str] = (UNPERTURBED,),
) -> TrialPlan:
    """A plan of trials `first_trial` to `first_trial + trials - 1`; None stands for the simulator's or protocol's own.

    tasks: numbers, or words: `all`, `0-9`, `0,3`. Raises ConfigError for values that make no plan, SimulatorError for
    an unknown suite or task.
    """
    rules = protocol if isinstance(protocol, EvaluationProtocol) else simulator.protocol(protocol)
    rules = rules.changed(states=states)
    if (tasks is not None and len(tasks) == 0) or (trials is not None and trials < 1) or first_trial < 0:
        raise ConfigError(f"tasks {tasks}, trials {trials}, first trial {first_trial}: nothing to run")
    chosen = [task for suite in suites or (None,) for task in _tasks(simulator, suite, tasks)]
    rules = replace(rules, max_steps={suite: rules.step_limit(suite) for suite in sorted({t.suite for t in chosen})})
    indices = range(first_trial, first_trial + (trials or rules.trials))
    return TrialPlan(tuple(dict.fromkeys(chosen)), indices, rules.states, rules, tuple(dict.fromkeys(perturbations)))


def _tasks(simulator: Simulator, suite: str | None, words: Sequence[int | str] | None) -> list[Task]:
    """The chosen tasks of a suite (None: the simulator's default one). Raises ConfigError."""
    if words is None:
        return [simulator.task(suite, None)]
    chosen: list[Task] = []
    for word in words:
        if word == "all":
            chosen += simulator.tasks(simulator.task(suite, 0).suite)
            continue
        ranges = ranges_in(str(word))
        if ranges is None:
            raise ConfigError(f"--tasks {word}: give numbers (0 3), ranges (0-9), lists (0,3), or all")
        chosen += (simulator.task(suite, number) for numbers in ranges for number in numbers)
    return chosen
