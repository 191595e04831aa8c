# SPDX-License-Identifier: Apache-2.0
"""`lightwam reproduce`: a published result made again, from recordings to a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightwam.cli.parse import Positional
from lightwam.errors import ConfigError
from lightwam.reproduce.estimates import usable_cpus
from lightwam.reproduce.plan import read_plan
from lightwam.reproduce.run import Choices, reproduce

_MOST_WORKERS = 8  # by default: a process that renders has more than a gigabyte
_HTML = "eval report"


@dataclass(frozen=True)
class ReproduceArgs:
    """Make a result again: recordings, VAE, latents, policy, engines, baselines, evaluations, report.

    A run that was stopped goes on with the same command. What was made otherwise is refused by name."""

    plan: Positional[str]
    """libero_object (the bundled policy), or the JSON file of a plan of your own."""
    out: Path | None = None
    """Folder for everything (default: outputs/PLAN, with --smoke outputs/PLAN-smoke)."""
    stages: tuple[str, ...] = ()
    """These stages only (default: all): record, vae, latents, policy, export, quantize, blind, replay, evaluate,
    report."""
    smoke: bool = False
    """All stages tiny, in minutes: whether they work on this machine. Its figures mean nothing."""
    estimate: bool = False
    """Print the steps, with what they take, and end."""
    workers: int | None = None
    """Processes (recording, latents, evaluation) or threads (training) of a step (default: one per CPU, at most 8)."""
    any_simulator: bool = False
    """Run with other versions of the simulator's packages than the faithful ones (LIBERO: MuJoCo 3.3.0), too."""
    allow_changed: tuple[str, ...] = ()
    """What may differ from what is in the folder, by the names that its refusal gives."""


def main(args: ReproduceArgs) -> int:
    """Run what is left to do. Raises ConfigError, RunFolderError, StageError."""
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers is {args.workers}: use at least 1")
    from lightwam.cli import VERBS

    plan = read_plan(args.plan, args.smoke)
    out = args.out or Path("outputs") / f"{plan.source}{'-smoke' if args.smoke else ''}"
    workers = args.workers or min(usable_cpus(), _MOST_WORKERS)
    html = _HTML if _HTML in VERBS else ""
    choices = Choices(args.stages, args.allow_changed, workers, args.any_simulator, html)
    reproduce(plan, out, choices, estimate_only=args.estimate)
    return 0
