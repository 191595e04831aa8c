# SPDX-License-Identifier: Apache-2.0
"""One trial: a policy drives a LIBERO environment from a given state until success or the step limit.

Legend: H W image size, A action width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lightwam.errors import SimulatorError
from lightwam.sim.libero.env import LiberoEnv, Observation
from lightwam.sim.libero.placements import shifted_state
from lightwam.sim.policies import PolicyLike
from lightwam.sim.protocols import EvaluationProtocol

Array = npt.NDArray[Any]

FrameSink = Callable[[Observation, int, int], None]  # (observation, control step, step within the chunk)
STATES = ("official", "shifted")


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


def start_state(env: LiberoEnv, official_SN: Array, index: int, states: str) -> Array:
    """The flat state of trial `index`: official, or shifted by `default_rng(777 + index)`.

    Raises SimulatorError for an unknown kind of states, or an index without an official state.
    """
    if states not in STATES:
        raise SimulatorError(f"unknown states {states!r}: choose one of {', '.join(STATES)}")
    if not 0 <= index < len(official_SN):
        raise SimulatorError(f"trial {index} has no official state: there are {len(official_SN)}")
    official = np.asarray(official_SN[index])
    return official if states == "official" else shifted_state(env, official, index)


def run_trial(
    env: LiberoEnv,
    policy: PolicyLike,
    protocol: EvaluationProtocol,
    state_N: Array,
    index: int = 0,
    *,
    frame_sink: FrameSink | None = None,
    frame_stride: int = 2,
) -> Trial:
    """Reset, put the environment into `state_N`, settle, and let the policy drive.

    Images are rendered only for the policy, and every `frame_stride` control steps for `frame_sink` if given.
    """
    env.reset()
    env.set_state(state_N)
    policy.reset()
    env.settle(protocol.settle_steps)
    limit, execute = protocol.step_limit(env.task.suite), protocol.steps_to_execute(policy.replan_steps)
    trial = Trial(index, False, 0)
    if frame_sink:
        frame_sink(env.observation(), 0, 0)
    while trial.steps < limit:
        started = time.perf_counter()
        chunk = policy.infer(env.observation())
        trial.latencies.append(time.perf_counter() - started)
        trial.stages.append(dict(getattr(chunk, "timings", None) or {}))
        actions_HA = np.asarray(chunk.actions)
        count = min(execute, len(actions_HA), limit - trial.steps)
        for number in range(count):
            trial.steps += 1
            wanted_frame = frame_sink is not None and trial.steps % frame_stride == 0
            done = env.step(actions_HA[number], render=wanted_frame or number == count - 1)
            if frame_sink and wanted_frame:
                frame_sink(env.observation(), trial.steps, number + 1)
            if done:
                trial.success = True
                return trial
    return trial


def latency_summary(trials: list[Trial]) -> dict[str, float]:
    """Chunk latency over all trials in milliseconds: p50, p95, p99, mean, and the number of chunks.

    The very first chunk, which warms the engine up, is left out where there are others.
    """
    seconds = [value for trial in trials for value in trial.latencies]
    measured = np.array(seconds[1:] if len(seconds) > 1 else seconds) * 1e3
    if measured.size == 0:
        return {"chunks": 0}
    p50, p95, p99 = np.percentile(measured, [50, 95, 99])
    return {
        "p50_ms": round(float(p50), 3),
        "p95_ms": round(float(p95), 3),
        "p99_ms": round(float(p99), 3),
        "mean_ms": round(float(measured.mean()), 3),
        "chunks": int(measured.size),
    }


def stage_summary(trials: list[Trial]) -> dict[str, float]:
    """Median milliseconds of every stage that the policy reports (in seconds)."""
    chunks = [stages for trial in trials for stages in trial.stages]
    names = sorted({name for stages in chunks for name in stages})
    return {name: round(1e3 * float(np.median([s[name] for s in chunks if name in s])), 3) for name in names}
