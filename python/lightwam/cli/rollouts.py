# SPDX-License-Identifier: Apache-2.0
"""Rollouts of `lightwam train policy`: export, then trials, each in a process of its own.

The process that drives the simulator imports no PyTorch: renderers and PyTorch's libraries do not always bear each
other in one process. What both processes print goes to rollouts/log.txt.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightwam.config.robot import RobotConfig
from lightwam.errors import ConfigError
from lightwam.files import replacing_folder
from lightwam.sim.closed_loop import check_task
from lightwam.sim.env import Simulator
from lightwam.sim.evaluate import evaluate
from lightwam.sim.films import Films
from lightwam.sim.plan import TrialPlan, plan_trials
from lightwam.sim.policies import load_policy
from lightwam.sim.registry import load_simulator
from lightwam.workers import run_jobs

if TYPE_CHECKING:
    from lightwam.config import LightWAMConfig
    from lightwam.train.rollouts import Rollouts

LOG_FILE = "log.txt"


@dataclass(frozen=True)
class _Trials:
    """Which trials; plain values, that the process of the simulator can read without PyTorch."""

    sim: str
    suite: str | None
    tasks: tuple[int, ...] | None
    trials: int
    states: str
    protocol: str | None
    threads: int | None

    def plan(self) -> tuple[Simulator, TrialPlan]:
        """Raises ConfigError, SimulatorError."""
        simulator = load_simulator(self.sim)
        suites = () if self.suite is None else (self.suite,)
        return simulator, plan_trials(
            simulator, suites=suites, tasks=self.tasks, trials=self.trials, states=self.states, protocol=self.protocol
        )


@dataclass(frozen=True)
class _Job:
    """One process's work."""

    trials: _Trials
    log: Path
    checkpoint: Path = Path()
    engine: Path = Path()
    precision: str = "f32"
    report: Path = Path()
    videos: Path | None = None


class SimulatorRollouts:
    """`lightwam.train.rollouts.Simulate` in a simulator of `lightwam.sim`."""

    def __init__(self, options: Rollouts) -> None:
        self.options = options
        self.trials = _Trials(
            options.rollout_sim, options.rollout_suite, options.rollout_tasks, options.rollout_trials,
            options.rollout_states, options.rollout_protocol, options.rollout_threads,
        )  # fmt: skip

    def check(self, config: LightWAMConfig) -> tuple[str, ...]:
        """The trials' instructions. Raises ConfigError, SimulatorError; makes the simulator's environments once."""
        robot, instructions = _in_a_process(_look, _Job(self.trials, Path(os.devnull)), None)
        own = config.robot
        for what, ours, theirs in (
            ("state width", len(own.state), len(robot.state)),
            ("action width", len(own.action), len(robot.action)),
            ("cameras", sorted(c.name for c in own.cameras), sorted(c.name for c in robot.cameras)),
        ):
            if ours != theirs:
                raise ConfigError(
                    f"the policy's {what} is {ours} and that of simulator {self.trials.sim} is {theirs}: give "
                    "--rollout-every 0, or a --rollout-sim of the policy's robot"
                )
        return tuple(instructions)

    def __call__(
        self, step: int, write_checkpoint: Callable[[Path], object], out: Path, tick: Callable[[], object]
    ) -> Mapping[str, float]:
        """Success in all trials, and of each task where there are several; the report goes to `out`/step_N."""
        name = f"step_{step:08d}"
        out.mkdir(exist_ok=True)
        with replacing_folder(out / name) as folder:
            checkpoint, engine = folder / "checkpoint", folder / f"{name}.lwam"
            write_checkpoint(checkpoint)
            videos = folder if self.options.rollout_videos else None
            job = _Job(self.trials, (out / LOG_FILE).absolute(), checkpoint, engine, self.options.rollout_precision,
                       folder / "report.json", videos)  # fmt: skip
            _in_a_process(_export, job, tick)
            shutil.rmtree(checkpoint)
            report = _in_a_process(_drive, job, tick)
            engine.unlink()
        figures = {"rollout/success": report["successes"] / report["trials"]}
        tasks = report["per_task"]
        if len(tasks) > 1:
            figures |= {f"rollout/success_task_{one['task']}": one["successes"] / one["trials"] for one in tasks}
        return figures


def _in_a_process(work: Callable[[_Job], Any], job: _Job, tick: Callable[[], object] | None) -> Any:
    """What the work returns. Raises what it raises, WorkerDied, and what `tick` raises."""
    with contextlib.closing(run_jobs(work, [job], attempts=1, tick=tick)) as results:
        return next(results)[1]


def _quiet(log: Path) -> None:
    """What this process prints goes to the log."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _look(job: _Job) -> tuple[RobotConfig, list[str]]:
    _quiet(job.log)
    simulator, plan = job.trials.plan()
    simulator.make_env(plan.tasks[0]).close()  # its renderer works
    for task in plan.tasks:
        check_task(simulator, plan, task)
    return simulator.robot, [task.instruction for task in plan.tasks]


def _export(job: _Job) -> None:
    _quiet(job.log)
    from lightwam.export.options import ExportOptions
    from lightwam.export.sources import export_folder

    options = ExportOptions(precision=job.precision, parity_seeds=())  # type: ignore[arg-type]
    export_folder(job.checkpoint, job.engine, options)


def _drive(job: _Job) -> dict[str, Any]:
    _quiet(job.log)
    simulator, plan = job.trials.plan()
    limit = plan.protocol.replan_steps
    policy = load_policy(job.engine, simulator.robot, replan_limit=limit, threads=job.trials.threads)
    return evaluate(simulator, policy, job.engine, plan, job.report, films=Films(job.videos, states=plan.states))
