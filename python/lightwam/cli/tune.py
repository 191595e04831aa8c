# SPDX-License-Identifier: Apache-2.0
"""`lightwam tune`: times an engine's tactics on this machine's GPU and writes the fastest beside the engine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lightwam.bench.measure import MAX_IMAGE_SIZE, set_any_instruction, square_observation
from lightwam.cli.parse import Positional
from lightwam.errors import ConfigError, DeviceError
from lightwam.progress import counting_bar
from lightwam.runtime import Policy
from lightwam.runtime.tuning import TaskTiming, Tuning, tuning_path, write_tuning
from lightwam.terminal import table

_MOST_ROWS = 20


@dataclass(frozen=True)
class TuneArgs:
    """Find the fastest tactics of a compiled engine on this machine's GPU; write them to ENGINE.tuning.json."""

    engine: Positional[Path]
    """Engine file (*.lwam) made by `lightwam compile`."""
    repeats: int = 20
    """Chunks timed with each tactic."""
    image_size: int = 256
    """Side of the square camera images, pixels."""
    instruction: str = "pick up the object"
    """What the policy is told when the engine carries no instruction of its own."""


def main(arguments: TuneArgs) -> int:
    """`tune`, then a table of what it found."""
    print_tuning(tune(arguments))
    print(f"wrote {tuning_path(arguments.engine)}")
    return 0


def tune(arguments: TuneArgs) -> Tuning:
    """Time the tactics and write the choice. Raises `ConfigError`, `EngineError`, `DeviceError`: nothing is written."""
    if arguments.repeats < 1:
        raise ConfigError(f"--repeats is {arguments.repeats}: use at least 1")
    if not 1 <= arguments.image_size <= MAX_IMAGE_SIZE:
        raise ConfigError(f"--image-size is {arguments.image_size}: use 1 to {MAX_IMAGE_SIZE}")
    policy = _on_gpu(arguments.engine)
    set_any_instruction(policy, arguments.instruction)
    seen = square_observation(policy, arguments.image_size)
    with counting_bar("timing tactics", show=True, stderr=True) as on_progress:
        tuning = policy.tune(seen, arguments.repeats, on_progress)
    try:
        replaced = write_tuning(arguments.engine, tuning)
    except ValueError as error:
        raise DeviceError(f"the times cannot be stored ({error}): tune again") from error
    if replaced:
        print(f"replaced: {replaced}")
    return tuning


def _on_gpu(engine: Path) -> Policy:
    """The engine on the GPU. Raises `DeviceError` without the advice to run it on the CPU, which has no tactics."""
    try:
        return Policy(engine, device="cuda", unfamiliar="ignore")  # it sees random numbers
    except DeviceError as error:
        raise DeviceError(re.sub(r",? or (pass|use) device='cpu'$", "", str(error))) from None


def print_tuning(tuning: Tuning) -> None:
    """The tasks that gain most, and the whole chunk."""
    changed = sorted((task for task in tuning.tasks if task.chosen), key=_gain, reverse=True)
    if changed:
        title = f"{len(changed)} of {len(tuning.tasks)} tasks run another tactic than the default"
        rows = []
        for task in changed[:_MOST_ROWS]:
            times = (f"{1e6 * task.seconds[tactic]:.1f}" for tactic in (0, task.chosen))
            rows.append((task.label, task.kernel, str(task.launches), *times, task.tactics[task.chosen]))
        print(table(("task", "kernel", "launches", "default us", "tuned us", "tactic"), rows, title))
    if tuning.library:
        taken = sum(task.tactics[task.chosen] == tuning.library for task in tuning.tasks)
        offered = sum(tuning.library in task.tactics for task in tuning.tasks)
        print(f"{tuning.library}: timed for {offered} tasks, the fastest for {taken}")
    elif tuning.why_no_library:
        print(f"only the engine's own tactics were timed: {tuning.why_no_library}")
    print(
        f"{tuning.gpu} ({tuning.target}): a chunk's launches take {1e3 * tuning.tuned_seconds:.3f} ms, "
        f"{1e3 * tuning.default_seconds:.3f} ms with the default tactics"
    )


def _gain(task: TaskTiming) -> float:
    return task.seconds[0] - task.seconds[task.chosen]
