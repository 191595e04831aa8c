# SPDX-License-Identifier: Apache-2.0
"""`lightwam record`: the scripted expert (and corrections of a policy's own roll-outs) as a LeRobot v3.0 data set.

Episodes go one by one to a staging folder, each written atomically, so that a stopped recording resumes where it was;
`finalise` joins what is there into the data set. Every episode follows from (seed, number) alone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightwam.config import LightWAMConfig
from lightwam.data.episode_files import META_FILE, write_episode
from lightwam.data.lerobot_writer import write_dataset
from lightwam.errors import ConfigError, SimulatorError
from lightwam.runtime.policy import DeviceName
from lightwam.sim.libero.env import LiberoEnv, load_task
from lightwam.sim.libero.placements import SPREADS
from lightwam.sim.libero.scenarios import CLIP_KINDS, ROW_HZ, NoiseConfig, ScenarioRunner

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 12


@dataclass(frozen=True)
class RecordArgs:
    """Options of `lightwam record`."""

    out: Path
    """Folder of the finished data set."""
    suite: str = "libero_object"
    task: int = 0
    episodes: int = 400
    """Whole episodes, from a random start to the object in its place."""
    clips: int = 600
    """Short clips: grasping from nearby, recovering from an empty grasp, dropped and carried objects."""
    policy: Path | None = None
    """Engine file: record corrections of this policy's own roll-outs instead (episodes of them; clips is ignored)."""
    device: DeviceName = "cpu"
    """What runs --policy: cpu; cuda (an engine made by `lightwam compile`, on a GPU or not at all); auto (a GPU if it
    can, else cpu)."""
    placements: Literal["wide", "nominal"] = "wide"
    """How far objects are moved: wider than the shifted protocol, or hardly, as in the official states (baselines)."""
    seed: int = 0
    processes: int = 1
    image_size: int = 256
    staging: Path | None = None
    """Folder of the single episodes (default: OUT with `.staging` appended). An existing one is resumed."""
    finalise: bool = True
    """Join the staged episodes into the data set at the end."""
    finalise_only: bool = False
    """Join what is staged already and record nothing."""

    def staging_folder(self) -> Path:
        return self.staging or self.out.with_name(self.out.name + ".staging")


def plan(args: RecordArgs) -> list[tuple[int, str]]:
    """(number, kind) of every episode, whole episodes and clips evenly mixed, so that any prefix is a fair sample."""
    if args.policy is not None:
        return [(number, "correction") for number in range(args.episodes)]
    kinds = ["full"] * args.episodes
    shares = list(CLIP_KINDS.items())
    edges = np.round(np.cumsum([share for _, share in shares]) * args.clips).astype(int)
    for (kind, _), start, stop in zip(shares, [0, *edges[:-1]], edges, strict=True):
        kinds += [kind] * int(stop - start)
    order = np.random.default_rng([args.seed, 1]).permutation(len(kinds))
    return [(number, kinds[index]) for number, index in enumerate(order)]


def episode_folder(staging: Path, number: int) -> Path:
    """Where episode `number` is staged."""
    return staging / f"episode_{number:06d}"


def record_one(runner: Any, staging: Path, number: int, kind: str, seed: int) -> int:
    """Record one episode, trying fresh random starts until the expert succeeds; returns its rows.

    Raises SimulatorError after MAX_ATTEMPTS failures.
    """
    for attempt in range(MAX_ATTEMPTS):
        rng = np.random.default_rng([seed, number, attempt])
        started = time.perf_counter()
        episode = runner.record(kind, rng)
        if episode is not None:
            episode.info = {**episode.info, "number": number, "seed": seed, "attempt": attempt}
            episode.info["seconds"] = round(time.perf_counter() - started, 3)
            write_episode(episode_folder(staging, number), episode, ROW_HZ)
            return len(episode)
    raise SimulatorError(f"episode {number} ({kind}): the expert failed {MAX_ATTEMPTS} times: check the task")


def make_runner(args: RecordArgs) -> Any:
    """The environment and the recorder of one process."""
    env = LiberoEnv(load_task(args.suite, args.task), image_size=args.image_size, joint_noise=True)
    if args.policy is None:
        return ScenarioRunner(env, NoiseConfig(), SPREADS[args.placements])
    from lightwam.sim.libero.corrections import CorrectionRunner
    from lightwam.sim.policies import load_policy

    return CorrectionRunner(env, load_policy(args.policy, device=args.device, threads=1))


def _work(args: RecordArgs, jobs: Any, results: Any) -> None:
    try:
        runner = make_runner(args)
        while True:
            try:
                number, kind = jobs.get_nowait()
            except queue.Empty:
                results.put(("done", os.getpid(), 0, ""))
                return
            rows = record_one(runner, args.staging_folder(), number, kind, args.seed)
            results.put(("episode", number, rows, kind))
    except BaseException as error:  # reported to the parent, which stops the recording
        results.put(("error", os.getpid(), 0, f"{type(error).__name__}: {error}"))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rows]} rows"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip


def record(args: RecordArgs) -> int:
    """Record what is missing from the plan; returns the number of rows recorded now."""
    staging = args.staging_folder()
    staging.mkdir(parents=True, exist_ok=True)
    jobs_left = [(n, k) for n, k in plan(args) if not (episode_folder(staging, n) / META_FILE).is_file()]
    total = len(plan(args))
    log.info("%d of %d episodes left to record in %s", len(jobs_left), total, staging)
    if not jobs_left:
        return 0
    context = multiprocessing.get_context("spawn")
    jobs, results = context.Queue(), context.Queue()
    for job in jobs_left:
        jobs.put(job)
    count = max(1, min(args.processes, len(jobs_left)))
    workers = [context.Process(target=_work, args=(args, jobs, results), daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    try:
        return _collect(workers, results, total, len(jobs_left))
    finally:
        for worker in workers:
            worker.terminate()


def _collect(workers: list[Any], results: Any, total: int, left: int) -> int:
    rows_total, running = 0, len(workers)
    with _progress() as progress:
        bar = progress.add_task("recording", total=total, completed=total - left, rows=0)
        while running:
            try:
                what, number, rows, text = results.get(timeout=5.0)
            except queue.Empty:
                if not any(worker.is_alive() for worker in workers):
                    raise SimulatorError("all recording processes ended without a word: see their output") from None
                continue
            if what == "error":
                raise SimulatorError(f"recording process {number} failed: {text}")
            if what == "done":
                running -= 1
                continue
            rows_total += rows
            progress.update(bar, advance=1, rows=rows_total)
            log.info("episode %d (%s): %d rows", number, text, rows)
    return rows_total


def main(args: RecordArgs) -> int:
    """Entry point of `lightwam record`. Raises ConfigError, SimulatorError or DataError."""
    if args.episodes < 0 or args.clips < 0 or args.processes < 1:
        raise ConfigError(
            f"episodes {args.episodes}, clips {args.clips}, processes {args.processes}: use >= 0, >= 0, >= 1"
        )
    if args.seed < 0 or args.image_size < 1:
        raise ConfigError(f"seed {args.seed}, image size {args.image_size}: use >= 0, >= 1")
    if args.device != "cpu" and args.policy is None:
        raise ConfigError(f"--device {args.device} is of --policy, and none is given: leave it out")
    if not args.finalise_only:
        record(args)
    if args.finalise or args.finalise_only:
        robot = LightWAMConfig.libero().robot
        summary = write_dataset(args.staging_folder(), args.out, robot, fps=ROW_HZ, robot_type="panda")
        print(f"{args.out}: {summary['total_episodes']} episodes, {summary['total_frames']} rows")
    return 0
