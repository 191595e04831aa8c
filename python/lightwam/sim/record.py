# SPDX-License-Identifier: Apache-2.0
"""Recordings of a scripted expert (or its corrections of a policy's own roll-outs), staged episode by episode.

Each episode is written atomically, so that a stopped recording resumes where it was, and follows from (seed, number)
alone. `lightwam.data.lerobot_writer` joins what is staged into a LeRobot v3.0 data set.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightwam.arithmetic import default_arithmetic
from lightwam.data.episode_files import META_FILE, read_episode_meta, write_episode
from lightwam.data.lerobot_writer import RECORDING_KEY
from lightwam.errors import ConfigError, DataError, SimulatorError
from lightwam.files import load_json, read_json, replacing_file
from lightwam.identity import Fingerprint, differences, told
from lightwam.lock import FolderLock
from lightwam.progress import tally_bar
from lightwam.sim.env import Recorder, Recording, Simulator, Task
from lightwam.sim.fidelity import unknown_in
from lightwam.sim.policies import load_policy
from lightwam.sim.registry import load_simulator
from lightwam.workers import run_jobs

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 12
RECORDING_FILE, LOCK_FILE = "recording.json", ".lock"
_STAGED = re.compile(r"episode_\d+|recording\.json|\.lock|\.(episode_\d+|recording)\..*\.part.*")

TASK_RUN = 20  # episodes of a task in a row: an environment takes seconds and a gigabyte, a process holds one at a time


class Job(NamedTuple):
    """One episode to record."""

    number: int
    kind: str
    task: Task


@dataclass(frozen=True)
class Staging:
    """Where the episodes of a recording go, one folder each, and beside them what they depend on."""

    folder: Path
    seed: int
    row_hz: int  # recorded rows a second

    def episode(self, number: int) -> Path:
        """The folder of episode `number`."""
        return self.folder / f"episode_{number:06d}"

    def missing(self, jobs: list[Job]) -> list[Job]:
        """The jobs whose episodes are not staged yet."""
        return [job for job in jobs if not (self.episode(job.number) / META_FILE).is_file()]


@contextlib.contextmanager
def staging_for(staging: Staging, jobs: list[Job], identity: Fingerprint) -> Iterator[None]:
    """Holds the staging folder, for a recording of this identity alone.

    Of episodes that were staged before identities were written, seed, number, kind, task and image size are compared.

    Raises ConfigError where the folder holds other things, is in use, or is of another recording (by name of the
    difference); it is left as it is.
    """
    folder = staging.folder
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"staging folder {folder} is a file: give another --staging")
    others = [entry for entry in sorted(os.listdir(folder)) if not _STAGED.fullmatch(entry)] if folder.exists() else []
    if others:
        raise ConfigError(f"staging folder {folder} holds {others[0]!r}, which is no episode: give another --staging")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder / LOCK_FILE, f"staging folder {folder}", ConfigError)
    try:
        written = staged_identity(folder)
        earlier = _identity_of_episodes(staging, jobs, identity) if written is None else written
        found = differences({**earlier, **unknown_in(earlier, identity)}, identity)
        if found:
            raise ConfigError(
                f"staging folder {folder} is of another recording: {told(found)}; give another --out (or --staging), "
                "or what it was recorded with"
            )
        if written is None:
            with replacing_file(folder / RECORDING_FILE) as building:
                building.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def staged_identity(folder: Path) -> Fingerprint | None:
    """What the episodes of a staging folder depend on; None where it does not say. Raises ConfigError: damaged."""
    path = folder / RECORDING_FILE
    if not path.exists():
        return None
    return read_json(path, "identity of a recording", ConfigError, "give another --staging")


def _identity_of_episodes(staging: Staging, jobs: list[Job], identity: Fingerprint) -> Fingerprint:
    """`identity` with what the first episode differs in that says otherwise."""
    planned = {job.number: job for job in jobs}
    for path in sorted(staging.folder.glob(f"episode_*/{META_FILE}")):
        meta = read_episode_meta(path.parent)
        number = int(meta.get("number", -1))
        size = max((max(shape[:2]) for shape in meta["image_shape"].values()), default=None)
        found: Fingerprint = {"seed": meta.get("seed"), "instruction": meta["task"], "image_size": size}
        if found != {name: identity.get(name) for name in found}:
            return {**identity, **found}
        if number in planned and meta["kind"] != planned[number].kind:  # numbers and kinds follow from both counts
            return {**identity, "episodes": "another number", "clips": "another number"}
    return identity


def is_recording(folder: Path, identity: Fingerprint | None) -> bool:
    """Whether a folder is a data set of `lightwam record` of this identity, which another one may replace.

    Raises DataError where it is of another recording, by name of the difference, or of one that does not say.
    """
    if not {entry.name for entry in folder.iterdir()} <= {"meta", "data", "videos"}:
        return False
    try:
        info = load_json(folder / "meta/info.json")
    except (OSError, ValueError):
        return False
    if not isinstance(info, dict) or not any(name.startswith("lightwam.") for name in info):
        return False
    earlier = info.get(RECORDING_KEY)
    if not isinstance(earlier, dict) or identity is None:
        unknown = "was recorded" if identity else "is there, and the staged episodes were recorded"
        raise DataError(f"{folder} {unknown} by an earlier version, which did not say how: give another --out")
    found = differences({**earlier, **unknown_in(earlier, identity)}, identity)
    if found:
        raise DataError(f"{folder} is of another recording: {told(found)}; nothing is replaced, give another --out")
    return True


def make_recorder(
    sim: str,
    placements: str,
    task: Task,
    *,
    targets: str = "goal",
    image_size: int = 256,
    policy: Path | None = None,
    device: str = "cpu",
) -> Recorder:
    """A recorder in an environment of its own, of the expert or of its corrections of `policy`, which runs on `device`.

    sim: a name of `registry.load_simulator`. Raises SimulatorError, EngineError.
    """
    simulator = load_simulator(sim)
    env = simulator.make_env(task, image_size=image_size, start_noise=True)
    driver = load_policy(policy, simulator.robot, device=device, threads=1) if policy else None
    return env.recorder(placements, driver, *([] if targets == "goal" else [targets]))


def recording_of(simulator: Simulator, placements: str | None, targets: str = "goal") -> tuple[Recording, str]:
    """What the simulator says of its recordings, and the name of their placements (None: its first).

    Raises SimulatorError where it says nothing, ConfigError for unknown placements or targets.
    """
    recording = simulator.recording
    if recording is None:
        raise SimulatorError(f"simulator {simulator.name!r} sets no `recording`: it can be evaluated, not recorded")
    if placements is not None and placements not in recording.placements:
        raise ConfigError(f"unknown placements {placements!r}: choose one of {', '.join(recording.placements)}")
    if targets not in recording.targets:
        raise ConfigError(f"unknown targets {targets!r}: choose one of {', '.join(recording.targets)}")
    return recording, placements or recording.placements[0]


def plan_episodes(
    recording: Recording, tasks: Sequence[Task], episodes: int, clips: int, seed: int, corrections: bool = False
) -> list[Job]:
    """Every episode: kinds and tasks evenly mixed, so that any prefix is a fair sample.

    episodes, clips: of all tasks together. corrections: only those of a policy, `episodes` of them.
    """
    rng = np.random.default_rng([seed, 2])
    turns: dict[str, list[Task]] = {}

    def next_task(kind: str) -> Task:
        """Each kind goes through all tasks in random order, again and again."""
        turn = turns.setdefault(kind, [])
        if not turn:
            turn += [tasks[index] for index in rng.permutation(len(tasks))]
        return turn.pop()

    kinds = ["correction"] * episodes if corrections else _mixed_kinds(recording, episodes, clips, seed)
    return [Job(number, kind, next_task(kind)) for number, kind in enumerate(kinds)]


def _mixed_kinds(recording: Recording, episodes: int, clips: int, seed: int) -> list[str]:
    kinds = ["full"] * episodes
    edges = np.round(np.cumsum(list(recording.clip_kinds.values())) * clips).astype(int)
    for kind, count in zip(recording.clip_kinds, np.diff(edges, prepend=0), strict=True):
        kinds += [kind] * int(count)
    order = np.random.default_rng([seed, 1]).permutation(len(kinds))
    return [kinds[index] for index in order]


@default_arithmetic
def record_one(recorder: Recorder, staging: Staging, number: int, kind: str) -> int:
    """Record one episode, trying fresh random starts until the expert succeeds; returns its rows.

    Raises SimulatorError after MAX_ATTEMPTS failures.
    """
    for attempt in range(MAX_ATTEMPTS):
        rng = np.random.default_rng([staging.seed, number, attempt])
        started = time.perf_counter()
        episode = recorder.record(kind, rng)
        if episode is not None:
            episode.info = {**episode.info, "number": number, "seed": staging.seed, "attempt": attempt}
            episode.info["seconds"] = round(time.perf_counter() - started, 3)
            write_episode(staging.episode(number), episode, staging.row_hz)
            return len(episode)
    raise SimulatorError(f"episode {number} ({kind}): the expert failed {MAX_ATTEMPTS} times: check the task")


_recorder: tuple[Task, Recorder] | None = None  # of this process


def _record_job(make: Callable[[Task], Recorder], staging: Staging, job: Job) -> int:
    """Record one episode with this process's recorder, if it is of the job's task, or with a new one; its rows."""
    global _recorder
    if _recorder is None or _recorder[0] != job.task:
        if _recorder is not None:
            _recorder[1].close()
            _recorder = None
            gc.collect()  # an environment refers to itself
        _recorder = job.task, make(job.task)
    return record_one(_recorder[1], staging, job.number, job.kind)


def in_runs(jobs: list[Job]) -> list[Job]:
    """The jobs in an order in which tasks change seldom, and yet the first hundreds have all of them."""
    tasks = list(dict.fromkeys(job.task for job in jobs))
    return sorted(jobs, key=lambda job: (job.number // (TASK_RUN * len(tasks)), tasks.index(job.task), job.number))


def record(make: Callable[[Task], Recorder], staging: Staging, jobs: list[Job], processes: int = 1) -> int:
    """Record what is missing of `jobs`; returns the number of rows recorded now.

    make: called in each process for each task; it travels there by pickle. An episode whose process dies is recorded
    once more.
    Raises SimulatorError where a process fails; what is staged is kept.
    """
    staging.folder.mkdir(parents=True, exist_ok=True)
    left, rows_total = staging.missing(in_runs(jobs)), 0
    log.info("%d of %d episodes left to record in %s", len(left), len(jobs), staging.folder)
    if not left:
        return 0
    results = run_jobs(functools.partial(_record_job, make, staging), left, processes, unfinished=staging.folder)
    with (
        tally_bar("recording", len(jobs), "rows", done=len(jobs) - len(left)) as advance,
        contextlib.closing(results),
    ):
        try:
            for job, rows in results:
                rows_total += rows
                advance(1, rows)
                log.info("episode %d (%s, task %d): %d rows", job.number, job.kind, job.task.index, rows)
        except Exception as error:  # whatever a simulator raises
            kept = f"the episodes in {staging.folder} are kept"
            raise SimulatorError(f"a recording process failed: {type(error).__name__}: {error}; {kept}") from error
    return rows_total
