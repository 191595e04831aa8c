# SPDX-License-Identifier: Apache-2.0
"""`lightwam demo`: the bundled policy drives a simulated arm; writes a video, a contact sheet and a report."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
from rich.console import Console

from lightwam.assets import bundled_engine
from lightwam.errors import ConfigError
from lightwam.runtime.policy import DeviceName
from lightwam.sim.closed_loop import Trial, latency_summary, run_trial, stage_summary, start_state
from lightwam.sim.evaluate import (
    environment_report,
    eval_progress,
    file_checksum,
    prepare_output,
    print_reports,
    write_report,
)
from lightwam.sim.libero.env import LiberoEnv, Observation, load_task
from lightwam.sim.policies import PolicyLike, load_policy, runs_on
from lightwam.sim.protocols import EvaluationProtocol, protocol
from lightwam.sim.video import VideoSink, compose_frame, contact_sheet, mark_outcome

Array = npt.NDArray[Any]


FIGURES = "nano-figures.json"  # a list of report summaries (`evaluate.summary_line`)


@dataclass(frozen=True)
class DemoArgs:
    """Options of `lightwam demo`."""

    out: Path = Path("outputs/demo")
    policy: Path | None = None
    """Engine file (default: the bundled one)."""
    suite: str = "libero_object"
    task: int = 0
    episodes: int = 3
    first_trial: int = 0
    states: str = "shifted"
    protocol: str = "paper"
    device: DeviceName = "cpu"
    """cpu; cuda: an engine made by `lightwam compile`, on a GPU or not at all; auto: a GPU if it can, else cpu."""
    threads: int | None = None
    """Processor threads; one per processor when absent."""
    sheet_columns: int = 8


def _drive(
    env: LiberoEnv, policy: PolicyLike, rules: EvaluationProtocol, args: DemoArgs, sink: VideoSink
) -> tuple[list[Trial], list[list[Array]]]:
    """Run the episodes into one video; returns the trials and the frames of each."""
    official = env.task.official_states()
    length = rules.steps_to_execute(policy.replan_steps)
    trials: list[Trial] = []
    films: list[list[Array]] = []
    with eval_progress() as progress:
        bar = progress.add_task(f"driving ({args.states} states)", total=args.episodes, solved=0)
        for index in range(args.first_trial, args.first_trial + args.episodes):
            film: list[Array] = []

            def keep(observation: Observation, step: int, chunk_step: int, film: list[Array] = film) -> None:
                film.append(compose_frame(observation, chunk_step, length))
                sink.add_frame(film[-1])

            state = start_state(env, official, index, args.states)
            trial = run_trial(env, policy, rules, state, index, frame_sink=keep)
            film[-1] = mark_outcome(film[-1], trial.success)
            for _ in range(8):  # hold the outcome for a moment
                sink.add_frame(film[-1])
            trials.append(trial)
            films.append(film)
            progress.update(bar, advance=1, solved=sum(t.success for t in trials))
    return trials, films


def _bundled_baselines() -> list[dict[str, Any]]:
    """Figures of the blind baseline and of the full 20 trials, measured when the bundled policy was made.

    They lie beside the bundled engine as `FIGURES`; a foreign engine has none.
    """
    path = bundled_engine().with_name(FIGURES)
    if not path.is_file():
        return []
    figures: list[dict[str, Any]] = json.loads(path.read_text())
    return figures


def demo(args: DemoArgs) -> dict[str, Any]:
    """Run the demo and return its report. Raises ConfigError, EngineError, SimulatorError."""
    if args.episodes < 1 or args.sheet_columns < 2:
        raise ConfigError(f"episodes {args.episodes}, sheet columns {args.sheet_columns}: use at least 1 and 2")
    rules, engine = protocol(args.protocol), args.policy or bundled_engine()
    policy = load_policy(engine, device=args.device, threads=args.threads)
    env = LiberoEnv(load_task(args.suite, args.task))
    env.seed(rules.seed)
    policy.set_instruction(env.task.instruction)
    with VideoSink(args.out / "rollout.mp4") as sink:
        trials, films = _drive(env, policy, rules, args, sink)
    env.close()
    contact_sheet(films, args.sheet_columns, args.out / "contact_sheet.png")
    return {
        "policy": engine.name,
        "policy_sha256": file_checksum(engine),
        "runs_on": runs_on(policy),
        "protocol": rules.name,
        "states": args.states,
        "suite": args.suite,
        "tasks": [args.task],
        "instruction": env.task.instruction,
        "executed_steps_a_chunk": rules.steps_to_execute(policy.replan_steps),
        "successes": sum(trial.success for trial in trials),
        "trials": len(trials),
        "latency": latency_summary(trials),
        "stages": stage_summary(trials),
        "runs": [trial.as_json() for trial in trials],
        "beside": _bundled_baselines() if args.policy is None else [],
        "environment": environment_report(),
    }


def main(args: DemoArgs) -> int:
    """Entry point of `lightwam demo`: prints success and chunk latency, and where the video is."""
    console = Console()
    console.print(f"{args.episodes} episodes of {args.suite} task {args.task}, {args.states} states")
    prepare_output(args.out / "report.json")
    report = demo(args)
    write_report(args.out / "report.json", report)
    print_reports([report, *report["beside"]], console)
    torch_word = "was" if report["environment"]["torch_imported"] else "was not"
    console.print(f"PyTorch {torch_word} imported in this process (Python {sys.version.split()[0]})")
    for name in ("rollout.mp4", "contact_sheet.png", "report.json"):
        console.print(f"  {args.out / name}")
    return 0
