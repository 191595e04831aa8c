# SPDX-License-Identifier: Apache-2.0
"""Trials: a policy drives an environment from a given state until success or the step limit.

Legend: S official states, N numbers of a state, H action horizon, A action width.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightwam.arithmetic import default_arithmetic
from lightwam.errors import ConfigError, SimulatorError
from lightwam.progress import tally_bar
from lightwam.sim.env import STATES, Array, EvaluationProtocol, Simulator, SimulatorEnv, Task
from lightwam.sim.policies import PolicyLike

FRAME_STRIDE = 2  # a video shows every second control step


AddPicture = Callable[[Array, int], None]
"""Takes a picture of a trial, uint8 RGB [H, W, 3], after so many executed actions of a chunk."""
OpenFilm = Callable[[int], AbstractContextManager[AddPicture | None]]  # trial index -> who takes its pictures, if any


@dataclass(frozen=True)
class TrialPlan:
    """Trials `indices` of each of `tasks` (of one suite), from `states` of a kind, under `protocol`."""

    tasks: tuple[Task, ...]
    indices: range
    states: str
    protocol: EvaluationProtocol


def plan_trials(
    simulator: Simulator,
    *,
    suite: str | None = None,
    tasks: tuple[int, ...] | None = None,
    trials: int | None = None,
    first_trial: int = 0,
    states: str = "official",
    protocol: str | None = None,
) -> TrialPlan:
    """A plan of trials `first_trial` to `first_trial + trials - 1`; None stands for the simulator's or protocol's own.

    Raises ConfigError for values that make no plan, SimulatorError for an unknown suite or task.
    """
    rules = simulator.protocol(protocol)
    if states not in STATES:
        raise ConfigError(f"unknown states {states!r}: choose one of {', '.join(STATES)}")
    if tasks == () or (trials is not None and trials < 1) or first_trial < 0:
        raise ConfigError(f"tasks {tasks}, trials {trials}, first trial {first_trial}: nothing to run")
    chosen = tuple(simulator.task(suite, index) for index in (tasks or (None,)))
    return TrialPlan(chosen, range(first_trial, first_trial + (trials or rules.trials)), states, rules)


@dataclass
class Trial:
    """The outcome of one trial. Steps are control steps after settling, latencies seconds a chunk."""

    index: int
    success: bool
    steps: int
    latencies: list[float] = field(default_factory=list)
    stages: list[Mapping[str, float]] = field(default_factory=list)  # seconds by stage, a chunk

    def as_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {"index": self.index, "success": self.success, "steps": self.steps, "chunks": len(self.latencies)}


def start_state(env: SimulatorEnv, official_SN: Array, index: int, states: str) -> Array:
    """The start [N] of trial `index`: an official one, or shifted in the same way each time.

    Raises SimulatorError for an index without an official state.
    """
    if not 0 <= index < len(official_SN):
        raise SimulatorError(f"trial {index} has no official state: there are {len(official_SN)}")
    official = np.asarray(official_SN[index])
    return official if states == "official" else env.shifted_state(official, index)


@default_arithmetic
def run_trial(
    env: SimulatorEnv,
    policy: PolicyLike,
    protocol: EvaluationProtocol,
    state_N: Array,
    index: int = 0,
    *,
    add_picture: AddPicture | None = None,
) -> Trial:
    """Reset, put the environment into `state_N`, settle, and let the policy drive.

    Images are rendered only for the policy, and every `FRAME_STRIDE` control steps for `add_picture` if given.
    """
    env.reset()
    env.set_state(state_N)
    policy.reset()
    env.settle(protocol.settle_steps)
    limit, execute = protocol.step_limit(env.task.suite), protocol.steps_to_execute(policy.replan_steps)
    trial = Trial(index, False, 0)
    if add_picture:
        add_picture(env.picture(), 0)
    while trial.steps < limit:
        started = time.perf_counter()
        chunk = policy.infer(env.observation())
        trial.latencies.append(time.perf_counter() - started)
        trial.stages.append(dict(getattr(chunk, "timings", None) or {}))
        actions_HA = np.asarray(chunk.actions)
        count = min(execute, len(actions_HA), limit - trial.steps)
        for number in range(count):
            trial.steps += 1
            filmed = add_picture is not None and trial.steps % FRAME_STRIDE == 0
            done = env.step(actions_HA[number], render=filmed or number == count - 1)
            if add_picture and filmed:
                add_picture(env.picture(), number + 1)
            if done:
                trial.success = True
                return trial
    return trial


def start_states(env: SimulatorEnv, indices: Sequence[int], states: str) -> list[Array]:
    """The start [N] of each of some trials. Raises SimulatorError where one has none (`start_state`)."""
    official = env.official_states()
    return [start_state(env, official, index, states) for index in indices]


def run_trials(
    simulator: Simulator,
    task: Task,
    policy: PolicyLike,
    plan: TrialPlan,
    open_film: OpenFilm = lambda _: contextlib.nullcontext(),
    finished: Sequence[Trial] = (),
) -> Iterator[Trial]:
    """Run the plan's trials of one of its tasks that are not `finished`, one by one, in one environment."""
    done = {trial.index for trial in finished}
    indices = [index for index in plan.indices if index not in done]
    if not indices:
        return
    label = f"{task.suite} task {task.index}, {plan.states}"
    with (
        contextlib.closing(simulator.make_env(task)) as env,
        tally_bar(label, len(plan.indices), "solved", done=len(done)) as advance,
    ):
        env.seed(plan.protocol.seed)
        starts = start_states(env, indices, plan.states)
        policy.set_instruction(task.instruction)
        advance(0, sum(trial.success for trial in finished))
        for index, state in zip(indices, starts, strict=True):
            with open_film(index) as add_picture:
                trial = run_trial(env, policy, plan.protocol, state, index, add_picture=add_picture)
            advance(1, int(trial.success))
            yield trial
