# SPDX-License-Identifier: Apache-2.0
"""`lightwam record`: the scripted expert (or corrections of a policy's own roll-outs) as a LeRobot v3.0 data set."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from lightwam.data.lerobot_writer import write_dataset
from lightwam.errors import ConfigError
from lightwam.runtime.policy import DeviceName
from lightwam.sim.record import Staging, make_recorder, plan_episodes, record, recording_of
from lightwam.sim.registry import load_simulator


@dataclass(frozen=True)
class RecordArgs:
    """Record demonstrations of a scripted expert as a LeRobot data set; a recording that was interrupted resumes."""

    out: Path
    """Folder of the finished data set."""
    sim: str = "libero"
    """Simulator, or the class of your own as module:Class."""
    suite: str | None = None
    """Suite of tasks (default: the simulator's; libero_object in LIBERO)."""
    task: int | None = None
    """Task of the suite (default: the simulator's; 0 in LIBERO)."""
    episodes: int = 400
    """Whole episodes, from a random start to the object in its place."""
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
    recording, placements = recording_of(simulator, args.placements)
    staging = Staging(args.staging or args.out.with_name(args.out.name + ".staging"), args.seed, recording.row_hz)
    if not args.finalise_only:
        task = simulator.task(args.suite, args.task)
        make = functools.partial(
            make_recorder, args.sim, task, placements, image_size=args.image_size, policy=args.policy,
            device=args.device,
        )  # fmt: skip
        jobs = plan_episodes(recording, args.episodes, args.clips, args.seed, corrections=args.policy is not None)
        record(make, staging, jobs, args.processes)
    if args.finalise or args.finalise_only:
        robot, robot_type = simulator.robot, recording.robot_type
        summary = write_dataset(staging.folder, args.out, robot, fps=staging.row_hz, robot_type=robot_type)
        print(f"{args.out}: {summary['total_episodes']} episodes, {summary['total_frames']} rows")
    return 0
