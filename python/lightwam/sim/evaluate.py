# SPDX-License-Identifier: Apache-2.0
"""Success of a policy in a simulator under a named protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightwam.sim.closed_loop import Trial, TrialPlan, run_trials
from lightwam.sim.env import Simulator
from lightwam.sim.policies import PolicyLike
from lightwam.sim.reports import environment_report, figures, heading
from lightwam.sim.video import compose_frame, open_video


def evaluate(
    simulator: Simulator,
    policy: PolicyLike,
    file: Path,
    plan: TrialPlan,
    *,
    videos: Path | None = None,
    beside: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Run the plan with the policy of `file`, and return the report, which keeps the reports `beside` it.

    `videos`: a folder for one mp4 a trial. Raises SimulatorError where the simulator fails.
    """
    per_task: list[dict[str, Any]] = []
    every: list[Trial] = []
    for task in plan.tasks:

        @contextlib.contextmanager
        def open_film(index: int, prefix: str = f"{task.suite}_{task.index}_{plan.states}") -> Iterator[Any]:
            if videos is None:
                yield None
                return
            with open_video(videos / f"{prefix}_{index:03d}.mp4", simulator.robot.control_hz) as append:
                yield lambda picture_HWC, _: append(compose_frame(picture_HWC))

        trials = list(run_trials(simulator, task, policy, plan, open_film))
        about = {"suite": task.suite, "task": task.index, "instruction": task.instruction}
        per_task.append({**about, **figures(trials), "runs": [trial.as_json() for trial in trials]})
        every += trials
    return {
        **heading(file, policy, plan),
        "settle_steps": plan.protocol.settle_steps,
        **figures(every),
        "per_task": per_task,
        "beside": list(beside),
        "environment": environment_report(simulator),
    }
