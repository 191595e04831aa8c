# SPDX-License-Identifier: Apache-2.0
"""`lightwam demo`: the bundled policy drives a simulated arm; writes a video, a contact sheet and a report."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from lightwam.assets import bundled_engine, bundled_figures
from lightwam.cli.eval import print_reports
from lightwam.errors import ConfigError
from lightwam.runtime.policy import DeviceName
from lightwam.sim.demo import run_demo
from lightwam.sim.fidelity import refuse_unfaithful
from lightwam.sim.plan import plan_trials
from lightwam.sim.policies import load_policy
from lightwam.sim.registry import load_simulator
from lightwam.sim.reports import prepare_output, write_report


@dataclass(frozen=True)
class DemoArgs:
    """Run a policy for some episodes in a simulator; write a video, a picture and the success."""

    out: Path = Path("outputs/demo")
    policy: Path | None = None
    """Engine file (default: the bundled one)."""
    sim: str = "libero"
    """Simulator, or the class of your own as module:Class. The bundled policy drives in LIBERO."""
    suite: str | None = None
    """Suite of tasks (default: the simulator's; libero_object in LIBERO)."""
    task: int | None = None
    """Task of the suite (default: the simulator's; 0 in LIBERO)."""
    episodes: int = 3
    first_trial: int = 0
    states: str = "shifted"
    """official, or shifted: objects moved further (LIBERO: target +-4 cm, place +-3 cm, others +-1 cm)."""
    protocol: str | None = None
    """Evaluation protocol (default: the simulator's first; in LIBERO paper, openpi or lerobot)."""
    device: DeviceName = "cpu"
    """cpu; cuda: an engine made by `lightwam compile`, on a GPU or not at all; auto: a GPU if it can, else cpu."""
    threads: int | None = None
    """CPU threads; one per CPU when absent."""
    any_simulator: bool = False
    """Run with other versions of the simulator's packages than the faithful ones (LIBERO: MuJoCo 3.3.0), too."""
    sheet_columns: int = 8


def main(args: DemoArgs) -> int:
    """Run the demo; prints success and chunk latency, and where the video is.

    Raises ConfigError, EngineError, SimulatorError.
    """
    if args.sheet_columns < 2:
        raise ConfigError(f"--sheet-columns {args.sheet_columns}: use at least 2")
    prepare_output(args.out / "report.json")
    simulator, file = load_simulator(args.sim), args.policy or bundled_engine()
    refuse_unfaithful(simulator, args.any_simulator)
    plan = plan_trials(
        simulator, suites=(args.suite,) if args.suite else (),
        tasks=None if args.task is None else (args.task,),
        trials=args.episodes, first_trial=args.first_trial, states=args.states, protocol=args.protocol,
    )  # fmt: skip
    print(f"{args.episodes} episodes of {plan.tasks[0].suite} task {plan.tasks[0].index}, {args.states} states")
    policy = load_policy(
        file, simulator.robot, replan_limit=plan.protocol.replan_steps, device=args.device, threads=args.threads
    )
    report = run_demo(simulator, policy, file, plan, args.out, args.sheet_columns)
    report["beside"] = bundled_figures() if args.policy is None else []
    write_report(args.out / "report.json", report)
    print_reports([report, *report["beside"]])
    torch_word = "was" if report["environment"]["torch_imported"] else "was not"
    print(f"PyTorch {torch_word} imported in this process (Python {sys.version.split()[0]})")
    for name in ("rollout.mp4", "contact_sheet.png", "report.json"):
        print(f"  {args.out / name}")
    return 0
