# SPDX-License-Identifier: Apache-2.0
"""`lightwam eval`: success of a policy in a simulator under a named protocol, as a JSON report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightwam.runtime.policy import DeviceName
from lightwam.sim.closed_loop import plan_trials
from lightwam.sim.evaluate import evaluate
from lightwam.sim.policies import load_policy
from lightwam.sim.registry import load_simulator
from lightwam.sim.reports import prepare_output, read_report, summary_line
from lightwam.terminal import table


@dataclass(frozen=True)
class EvalArgs:
    """Measure a policy's success in a simulator, and write a report.

    A stopped evaluation leaves a report of what is done; the same command goes on from there.
    """

    policy: Path
    """Engine file (.lwam), or a baseline (.npz from `lightwam train blind` or `train replay`)."""
    sim: str = "libero"
    """Simulator, or the class of your own as module:Class."""
    suite: str | None = None
    """Suite of tasks (default: the simulator's; libero_object in LIBERO)."""
    tasks: tuple[int, ...] | None = None
    """Tasks of the suite (default: the simulator's; 0 in LIBERO)."""
    trials: int | None = None
    """Trials a task (default: the protocol's)."""
    first_trial: int = 0
    protocol: str | None = None
    """Evaluation protocol (default: the simulator's first; in LIBERO paper, openpi or lerobot)."""
    states: str = "official"
    """official, or shifted: objects moved further (LIBERO: target +-4 cm, place +-3 cm, others +-1 cm)."""
    out: Path = Path("outputs/eval/report.json")
    videos: Path | None = None
    """Folder for one mp4 a trial."""
    beside: tuple[Path, ...] = ()
    """Earlier reports (of baselines, say) to show and keep beside this one."""
    device: DeviceName = "cpu"
    """cpu; cuda: an engine made by `lightwam compile`, on a GPU or not at all; auto: a GPU if it can, else cpu."""
    threads: int | None = None
    """CPU threads; one per CPU when absent."""
    precision: str = "auto"
    """auto is the engine's own; f32, bf16, f16, int8 insist on it."""


def print_reports(reports: list[dict[str, Any]]) -> None:
    """Success and chunk latency of several reports as a table."""
    rows = []
    for report in reports:
        about = (str(report.get("policy", "-")), str(report.get("states")), str(report.get("protocol")))
        latency = report.get("latency", {})
        times = (str(latency.get(name, "-")) for name in ("p50_ms", "p95_ms", "p99_ms"))
        success = f"{report['successes']} of {report['trials']}" + (", unfinished" if "unfinished" in report else "")
        rows.append((*about, success, *times))
    print(table(("policy", "states", "protocol", "success", "p50 ms", "p95 ms", "p99 ms"), rows))


def main(args: EvalArgs) -> int:
    """Run the evaluation, print its figures and write the report.

    Raises ConfigError, DataError, SimulatorError, EngineError.
    """
    prepare_output(args.out)
    simulator = load_simulator(args.sim)
    beside = [summary_line(read_report(path)) for path in args.beside]
    plan = plan_trials(
        simulator, suite=args.suite, tasks=args.tasks, trials=args.trials, first_trial=args.first_trial,
        states=args.states, protocol=args.protocol,
    )  # fmt: skip
    policy = load_policy(
        args.policy, simulator.robot, replan_limit=plan.protocol.replan_steps, device=args.device,
        threads=args.threads, precision=args.precision,
    )  # fmt: skip
    report = evaluate(simulator, policy, args.policy, plan, args.out, videos=args.videos, beside=beside)
    print_reports([summary_line(report), *beside])
    print(f"report: {args.out}")
    return 0
