# SPDX-License-Identifier: Apache-2.0
"""A few trials of one task as a video, a contact sheet and a report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightwam.progress import tally_bar
from lightwam.sim.closed_loop import Trial, TrialRunner
from lightwam.sim.env import Array, Simulator
from lightwam.sim.plan import TrialPlan
from lightwam.sim.policies import PolicyLike
from lightwam.sim.reports import environment_report, figures, heading
from lightwam.sim.video import compose_frame, contact_sheet, mark_outcome, open_video

HOLD_FRAMES = 8  # how long the video shows an outcome


class Film:
    """The frames of every trial, each also added to one video."""

    def __init__(self, append: Callable[[Array], None], chunk_length: int) -> None:
        self.rows: list[list[Array]] = []  # a trial
        self._append, self._chunk_length = append, chunk_length

    def start(self) -> None:
        """Begin another trial."""
        self.rows.append([])

    def add(self, picture_HWC: Array, chunk_step: int) -> None:
        """Append a picture with the strip of its chunk."""
        self.rows[-1].append(compose_frame(picture_HWC, chunk_step, self._chunk_length))
        self._append(self.rows[-1][-1])

    def finish(self, success: bool) -> None:
        """Mark the trial's last frame, and hold it for a moment."""
        self.rows[-1][-1] = mark_outcome(self.rows[-1][-1], success)
        for _ in range(HOLD_FRAMES):
            self._append(self.rows[-1][-1])


def run_demo(
    simulator: Simulator, policy: PolicyLike, file: Path, plan: TrialPlan, out: Path, sheet_columns: int
) -> dict[str, Any]:
    """Run the trials of a plan of one task; writes rollout.mp4 and contact_sheet.png into `out`, returns the report."""
    (task,) = plan.tasks
    trials: list[Trial] = []
    with (
        contextlib.closing(TrialRunner(simulator, policy, plan)) as runner,
        tally_bar(f"{task.suite} task {task.index}, {plan.states}", len(plan), "solved") as advance,
        open_video(out / "rollout.mp4", simulator.robot.control_hz) as append,
    ):
        film = Film(append, plan.protocol.steps_to_execute(policy.replan_steps))
        for job in plan.jobs():
            film.start()
            trials.append(runner.run(job, film.add))
            film.finish(trials[-1].success)
            advance(1, int(trials[-1].success))
    contact_sheet(film.rows, sheet_columns, out / "contact_sheet.png")
    return {
        **heading(file, policy, plan),
        "instruction": task.instruction,
        **figures(trials),
        "runs": [trial.as_json() for trial in trials],
        "environment": environment_report(simulator),
    }
