# SPDX-License-Identifier: Apache-2.0
"""Trials: a policy drives an environment from a given state until success or the step limit.

Legend: S official states, N numbers of a state, H action horizon, A action width.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightwam.arithmetic import default_arithmetic
from lightwam.errors import SimulatorError
from lightwam.sim.env import Array, EvaluationProtocol, Simulator, SimulatorEnv, Task
from lightwam.sim.perturb import Perturbed, perturbed
from lightwam.sim.plan import Job, TrialPlan
from lightwam.sim.policies import PolicyLike

FRAME_STRIDE = 2  # a video shows every second control step


AddPicture = Callable[[Array, int], None]
"""Takes a picture of a trial, uint8 RGB [H, W, 3], after so many executed actions of a chunk."""


@dataclass
class Trial:
    """The outcome of one trial. Steps are control steps after settling, latencies seconds a chunk."""

    index: int
    success: bool
    steps: int
    latencies: list[float] = field(default_factory=list)
    stages: list[Mapping[str, float]] = field(default_factory=list)  # seconds by stage, a chunk
    simulator: Mapping[str, Any] = field(default_factory=dict)  # `SimulatorEnv.fingerprint` of where it ran
    film: Mapping[str, str] = field(default_factory=dict)  # name and content (sha256) of its video, where there is one

    def as_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        told = {"simulator": dict(self.simulator)} if self.simulator else {}
        if self.film:
            told["film"] = dict(self.film)
        return {
            "index": self.index, "success": self.success, "steps": self.steps, "chunks": len(self.latencies), **told,
        }  # fmt: skip


def simulators(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The different fingerprints of some trials' JSON: more than one where machines or versions differed."""
    found: list[Any] = []
    for run in runs:
        if "simulator" in run and run["simulator"] not in found:
            found.append(run["simulator"])
    return {"simulator": found} if found else {}


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


class TrialRunner:
    """Runs trials of a plan in any order, with one environment open at a time.

    A trial follows from its number alone: the simulator is seeded anew for each, and nothing is left of those before.
    """

    def __init__(self, simulator: Simulator, policy: PolicyLike, plan: TrialPlan) -> None:
        self.simulator, self.policy, self.plan = simulator, policy, plan
        self._plain: SimulatorEnv | None = None  # of the task
        self._env: SimulatorEnv | None = None  # the same, perturbed
        self._perturb, self._instruction = "", ""
        self._official_SN = np.empty((0, 0))
        self._fingerprint: Mapping[str, Any] = {}

    def run(self, job: Job, add_picture: AddPicture | None = None) -> Trial:
        """One trial. Raises SimulatorError where a trial of the plan has no start, or the simulator fails."""
        env, rules = self._env_of(job), self.plan.protocol
        env.begin_trial(job.index)
        state = start_state(env, self._official_SN, job.index, self.plan.states)
        if env.instruction() != self._instruction:
            self._instruction = env.instruction()
            self.policy.set_instruction(self._instruction)
        env.seed(rules.seed + job.index)
        trial = run_trial(env, self.policy, rules, state, job.index, add_picture=add_picture)
        trial.simulator = self._fingerprint
        return trial

    def close(self) -> None:
        """Close the environment that is open."""
        plain, self._plain, self._env = self._plain, None, None
        if plain is not None:
            plain.close()

    def _env_of(self, job: Job) -> SimulatorEnv:
        if self._plain is None or self._plain.task != job.task:
            self.close()
            self._plain = self.simulator.make_env(job.task)
            self._fingerprint = self._plain.fingerprint()
            self._official_SN = check_starts(self._plain, self.plan)
        if self._env is None or self._perturb != job.perturb:
            if isinstance(self._env, Perturbed):
                self._env.leave()
            self._env, self._perturb = perturbed(self._plain, job.perturb), job.perturb
        return self._env


def check_starts(env: SimulatorEnv, plan: TrialPlan) -> Array:
    """The official starts [S, N] of a task. Raises SimulatorError where a trial of the plan has no start."""
    official_SN = env.official_states()
    for index in plan.indices:
        env.begin_trial(index)
        start_state(env, official_SN, index, plan.states)
    return official_SN


def check_task(simulator: Simulator, plan: TrialPlan, task: Task) -> None:
    """Raises SimulatorError where a trial of a task has no start, or a perturbation is not to be had."""
    with contextlib.closing(simulator.make_env(task, render=False)) as plain:
        first = plan.indices[0]
        state = start_state(plain, check_starts(plain, plan), first, plan.states)
        plain.reset()
        for name in plan.perturbations:
            env = perturbed(plain, name)
            env.begin_trial(first)
            env.set_state(state)
            if isinstance(env, Perturbed):
                env.leave()
