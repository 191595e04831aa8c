# SPDX-License-Identifier: Apache-2.0
"""`lightwam record`: the scripted expert (or corrections of a policy's own roll-outs) as a LeRobot v3.0 data set."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightwam.config.robot import RobotConfig
from lightwam.data.lerobot_writer import write_dataset
from lightwam.errors import ConfigError, DataError
from lightwam.files import check_output
from lightwam.identity import Fingerprint
from lightwam.number_lists import ranges_in
from lightwam.runtime.policy import DeviceName
from lightwam.sim.env import Simulator, Task
from lightwam.sim.fidelity import refuse_unfaithful, simulator_identity
from lightwam.sim.record import (
    Staging,
    is_recording,
    make_recorder,
    plan_episodes,
    record,
    recording_of,
    staged_identity,
    staging_for,
)
from lightwam.sim.registry import load_simulator


@dataclass(frozen=True)
class RecordArgs:
    """Record demonstrations of a scripted expert as a LeRobot data set; a recording that was interrupted resumes.

    Nothing is replaced but a data set of the same recording: task, seed, image size, numbers of episodes."""

    out: Path
    """Folder of the finished data set."""
    sim: str = "libero"
    """Simulator, or the class of your own as module:Class."""
    suite: str | None = None
    """Suite of tasks (default: the simulator's; libero_object in LIBERO)."""
    task: str | None = None
    """Task of the suite, or several: all, 0-9, or 0,3,5 (default: the simulator's; 0 in LIBERO). Each has an equal
    share of the episodes and clips, at any moment of the recording."""
    targets: str = "goal"
    """goal: the task's own; any: often another object of the scene, with its instruction, and all objects at each
    other's places, so that a policy has to read (LIBERO: libero_object)."""
    episodes: int = 400
    """Whole episodes, from a random start to the object in its place. Of all tasks together, as the clips."""
    clips: int = 600
    """Short clips where the simulator has them (LIBERO: grasping from nearby, recovering from an empty grasp, dropped
    and carried objects)."""
    policy: Path | None = None
    """Engine file: record corrections of this policy's own roll-outs instead (episodes of them; clips is ignored)."""
    device: DeviceName = "cpu"
    """What runs --policy: cpu; cuda (an engine made by `lightwam compile`, on a GPU or not at all); auto (a GPU if it
    can, else cpu)."""
    placements: str | None = None
    """How far objects are moved (default: the simulator's first; in LIBERO wide, wider than the shifted states, or
    nominal: hardly, as in the official states, for baselines)."""
    seed: int = 0
    processes: int = 1
    image_size: int = 256
    any_simulator: bool = False
    """Run with other versions of the simulator's packages than the faithful ones (LIBERO: MuJoCo 3.3.0), too."""
    staging: Path | None = None
    """Folder of the single episodes (default: OUT with `.staging` appended). An existing one is resumed."""
    finalise: bool = True
    """Join the staged episodes into the data set at the end."""
    finalise_only: bool = False
    """Join what is staged already and record nothing."""


def check(args: RecordArgs) -> None:
    """Raises ConfigError for values that make no recording."""
    if args.episodes < 0 or args.clips < 0 or args.processes < 1:
        raise ConfigError(
            f"episodes {args.episodes}, clips {args.clips}, processes {args.processes}: use >= 0, >= 0, >= 1"
        )
    if args.seed < 0 or args.image_size < 1:
        raise ConfigError(f"seed {args.seed}, image size {args.image_size}: use >= 0, >= 1")
    if args.device != "cpu" and args.policy is None:
        raise ConfigError(f"--device {args.device} is for --policy, and none is given: leave it out")


def main(args: RecordArgs) -> int:
    """Record what is missing, and join it. Raises ConfigError, SimulatorError or DataError."""
    check(args)
    simulator = load_simulator(args.sim)
    recording, placements = recording_of(simulator, args.placements, args.targets)
    staging = Staging(args.staging or args.out.with_name(args.out.name + ".staging"), args.seed, recording.row_hz)
    if args.finalise_only:
        identity = staged_identity(staging.folder)
        _check_out(args, staging, identity)
        _join(args, staging, identity, simulator.robot, recording.robot_type)
        return 0
    refuse_unfaithful(simulator, args.any_simulator)
    tasks = chosen_tasks(simulator, args.suite, args.task)
    for task in tasks:
        simulator.check_recording(task, clips=args.clips > 0 and args.policy is None)
    identity = _identity(args, simulator, tasks, placements)
    _check_out(args, staging, identity)
    make = functools.partial(
        make_recorder, args.sim, placements, targets=args.targets, image_size=args.image_size, policy=args.policy,
        device=args.device,
    )  # fmt: skip
    jobs = plan_episodes(recording, tasks, args.episodes, args.clips, args.seed, corrections=args.policy is not None)
    with staging_for(staging, jobs, identity):
        record(make, staging, jobs, args.processes)
        if args.finalise:
            _join(args, staging, identity, simulator.robot, recording.robot_type)
    return 0


def chosen_tasks(simulator: Simulator, suite: str | None, words: str | None) -> list[Task]:
    """The tasks of --task. Raises ConfigError for words that name none, SimulatorError for a task that is not there."""
    if words is None:
        return [simulator.task(suite, None)]
    if words == "all":
        return list(simulator.tasks(simulator.task(suite, 0).suite))
    ranges = ranges_in(words)
    if ranges is None:
        raise ConfigError(f"--task {words!r} names no tasks: give a number, a range as 0-9, some as 0,3,5, or all")
    tasks = [simulator.task(suite, number) for numbers in ranges for number in numbers]
    if len(set(tasks)) < len(tasks):
        raise ConfigError(f"--task {words!r} names a task twice: give each once")
    return tasks


def _identity(args: RecordArgs, simulator: Simulator, tasks: Sequence[Task], placements: str) -> Fingerprint:
    """What the episodes depend on. Raises ConfigError where the policy cannot be read."""
    policy = None
    if args.policy is not None:
        try:
            policy = hashlib.sha256(args.policy.read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise ConfigError(f"--policy {args.policy} cannot be read ({error.strerror}): give an engine") from error
    first = tasks[0]
    said: Fingerprint = {"task": first.index, "instruction": first.instruction}
    if len(tasks) > 1 or args.targets != "goal":
        numbers = ",".join(str(task.index) for task in tasks)
        said = {"task": numbers, "instruction": None, "targets": args.targets}
    return {
        "sim": args.sim, "suite": first.suite, **said,
        "placements": placements, "policy": policy, "seed": args.seed, "image_size": args.image_size,
        "episodes": args.episodes, "clips": 0 if policy else args.clips,
        **simulator_identity(simulator),
    }  # fmt: skip


def _check_out(args: RecordArgs, staging: Staging, identity: Fingerprint | None) -> None:
    """Whether the data set may be written, before any work. Raises DataError."""
    if args.finalise or args.finalise_only:
        check_output(
            args.out, "a data set", DataError, lambda place, _: is_recording(place, identity), [staging.folder],
            folder=True,
        )  # fmt: skip


def _join(args: RecordArgs, staging: Staging, identity: Fingerprint | None, robot: RobotConfig, kind: str) -> None:
    summary = write_dataset(
        staging.folder, args.out, robot, fps=staging.row_hz, robot_type=kind, recording=identity
    )  # fmt: skip
    print(f"{args.out}: {summary['total_episodes']} episodes, {summary['total_frames']} rows")
