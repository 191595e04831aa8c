# SPDX-License-Identifier: Apache-2.0
"""Runs the steps of a plan that are not done yet, each as a command of its own; any stop goes on with the same call."""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from lightwam.errors import ConfigError, StageError
from lightwam.reproduce.child import Run, run_command
from lightwam.reproduce.estimates import bytes_of, check_disk, clock, pace, seconds_of, size
from lightwam.reproduce.plan import REPORT, Plan, Step
from lightwam.reproduce.records import Folder, Record, content, open_folder
from lightwam.reproduce.report import write_report
from lightwam.terminal import table

log = logging.getLogger(__name__)

LOG = "log.txt"
_TRAINERS = ("train vae", "train policy")
_ALL_OF_A_RUN = ("seed", "code", "vae", "text", "frozen", "data", "recipe", "config")
_SIMULATED = ("record", "train replay", "eval")


@dataclass(frozen=True)
class Choices:
    """What of a plan is run, and how.

    stages: their names; none: all. allowed: names of differences that may be. workers: processes or threads of a step.
    any_simulator: other versions of the simulator, too. html: the verb that writes an HTML report, or "".
    """

    stages: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    workers: int = 1
    any_simulator: bool = False
    html: str = ""


def reproduce(plan: Plan, path: Path, choices: Choices, *, estimate_only: bool = False, run: Run = run_command) -> None:
    """Make the plan's result in the folder `path`; prints what is done, and keeps it in log.txt.

    Raises ConfigError for unknown stages or a full disk, RunFolderError where something was made otherwise, StageError
    where a command fails.
    """
    unknown = [name for name in choices.stages if name not in plan.stages]
    if unknown:
        raise ConfigError(f"--stages {unknown[0]}: choose from {', '.join(plan.stages)}")
    untouched = estimate_only and not path.exists()
    with contextlib.nullcontext(Folder(path, plan)) if untouched else open_folder(path, plan) as folder:
        steps = [step for step in plan.steps if step.stage in (choices.stages or plan.stages)]
        _check(folder, steps, choices)
        left = [step for step in steps if not folder.is_done(step)]
        print(_table(folder, steps, choices.workers))
        print(_sums(folder, left, choices.workers))
        if estimate_only:
            return
        check_disk(path, left)
        for number, step in enumerate(steps):
            if not _is_valid(folder, step, choices.allowed):
                _run(folder, step, choices, run, f"{number + 1} of {len(steps)}")
        if REPORT in (choices.stages or plan.stages):
            print(f"report: {write_report(folder, choices.workers, choices.html, run)}")


def _check(folder: Folder, steps: Sequence[Step], choices: Choices) -> None:
    """What can be refused before any work."""
    for step in steps:
        for product in step.reads():
            maker = folder.plan.maker(product)
            if maker not in steps and not folder.is_done(maker):
                raise ConfigError(
                    f"stage {step.stage} needs stage {maker.stage}, which is not done: add it to --stages"
                )
        _is_valid(folder, step, choices.allowed)


def _is_valid(folder: Folder, step: Step, allowed: Sequence[str]) -> bool:
    """Whether a step is done and of this plan. Raises RunFolderError where it was made otherwise."""
    identity = folder.identity(step)
    if identity is None:
        return False
    folder.refuse_changed(step, identity, allowed)
    return folder.is_done(step)


def _run(folder: Folder, step: Step, choices: Choices, run: Run, place: str) -> None:
    folder.check_reads(step)
    identity = folder.identity(step)
    assert identity is not None
    changed = folder.refuse_changed(step, identity, choices.allowed)
    more = ["--any-simulator"] if choices.any_simulator and step.verb in _SIMULATED else []
    more += ["--allow-changed", *_ALL_OF_A_RUN] if changed and step.verb in _TRAINERS else []
    words = step.words(folder.paths, choices.workers, more)
    command = f"lightwam {shlex.join(words)}"
    earlier = folder.read(step)
    record = Record(identity, command, seconds=earlier.seconds if earlier else 0.0)
    folder.write(step, record)
    _tell(folder, f"{step.name} ({place}): {command}")
    for made in step.makes.values():
        (folder.path / made).parent.mkdir(parents=True, exist_ok=True)
    began, how = time.monotonic(), "stopped"
    try:
        run(words, step.name, folder.log_path(step))
        record = replace(record, done=True, products=_products(folder, step))
        how = "done"
    finally:
        record = replace(record, seconds=round(record.seconds + time.monotonic() - began, 1))
        folder.write(step, record)
        estimated = clock(seconds_of(step, choices.workers))
        _tell(folder, f"{step.name}: {how} after {clock(record.seconds)} (estimated {estimated})")


def _products(folder: Folder, step: Step) -> dict[str, str]:
    """Content of what a step made. Raises StageError where something is missing."""
    found = {}
    for product in step.makes:
        digest = content(folder.paths[product])
        if digest is None:
            raise StageError(f"{step.name} did not make {folder.paths[product]}: see {folder.log_path(step)}")
        found[product] = digest
    return found


def _tell(folder: Folder, line: str) -> None:
    """Print a line, and add it to the log with its time."""
    print(line, flush=True)
    with (folder.path / LOG).open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {line}\n")


def _table(folder: Folder, steps: Sequence[Step], workers: int) -> str:
    rows = []
    for step in steps:
        record = folder.read(step)
        state = "to do" if record is None else f"{'done in' if record.done else 'begun,'} {clock(record.seconds)}"
        rows.append((step.name, step.verb, state, clock(seconds_of(step, workers)), size(bytes_of(step))))
    title = f"{folder.plan.source}: {folder.plan.about}"
    return table(("step", "command", "", "estimated", "disk"), rows, title)


def _sums(folder: Folder, left: Sequence[Step], workers: int) -> str:
    done = [(record.seconds, seconds_of(step, workers)) for step in folder.plan.steps
            if (record := folder.read(step)) is not None and record.done]  # fmt: skip
    times = pace(done)
    seconds = times * sum(seconds_of(step, workers) for step in left)
    told = (
        f"{len(left)} steps are left: about {clock(seconds)} with {workers} workers, {size(sum(map(bytes_of, left)))}"
    )
    here = f"; this machine takes {times:.2g} times the estimates so far" if times != 1.0 else ""
    return f"{told}. Estimates are those of {folder.plan.measured}{here}"
