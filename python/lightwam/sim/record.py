# SPDX-License-Identifier: Apache-2.0
"""Recordings of a scripted expert (or its corrections of a policy's own roll-outs), staged episode by episode.

Each episode is written atomically, so that a stopped recording resumes where it was, and follows from (seed, number)
alone. `lightwam.data.lerobot_writer` joins what is staged into a LeRobot v3.0 data set.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightwam.arithmetic import default_arithmetic
from lightwam.data.episode_files import META_FILE, write_episode
from lightwam.errors import ConfigError, SimulatorError
from lightwam.progress import tally_bar
from lightwam.sim.env import Recorder, Recording, Simulator, Task
from lightwam.sim.policies import load_policy
from lightwam.sim.registry import load_simulator
from lightwam.workers import run_jobs

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 12

Job = tuple[int, str]  # number and kind of an episode


@dataclass(frozen=True)
class Staging:
    """Where the episodes of a recording go, one folder each."""

    folder: Path
    seed: int
    row_hz: int  # recorded rows a second

    def episode(self, number: int) -> Path:
        """The folder of episode `number`."""
        return self.folder / f"episode_{number:06d}"

    def missing(self, jobs: list[Job]) -> list[Job]:
        """The jobs whose episodes are not staged yet."""
        return [job for job in jobs if not (self.episode(job[0]) / META_FILE).is_file()]


def make_recorder(
    sim: str, task: Task, placements: str, *, image_size: int = 256, policy: Path | None = None, device: str = "cpu"
) -> Recorder:
    """A recorder in an environment of its own, of the expert or of its corrections of `policy`, which runs on `device`.

    sim: a name of `registry.load_simulator`. Raises SimulatorError, EngineError.
    """
    simulator = load_simulator(sim)
    env = simulator.make_env(task, image_size=image_size, start_noise=True)
    driver = load_policy(policy, simulator.robot, device=device, threads=1) if policy else None
    return env.recorder(placements, driver)


def recording_of(simulator: Simulator, placements: str | None) -> tuple[Recording, str]:
    """What the simulator says of its recordings, and the name of their placements (None: its first).

    Raises SimulatorError where it says nothing, ConfigError for unknown placements.
    """
    recording = simulator.recording
    if recording is None:
        raise SimulatorError(f"simulator {simulator.name!r} sets no `recording`: it can be evaluated, not recorded")
    if placements is not None and placements not in recording.placements:
        raise ConfigError(f"unknown placements {placements!r}: choose one of {', '.join(recording.placements)}")
    return recording, placements or recording.placements[0]


def plan_episodes(recording: Recording, episodes: int, clips: int, seed: int, corrections: bool = False) -> list[Job]:
    """(number, kind) of every episode: whole episodes and clips evenly mixed, so that any prefix is a fair sample.

    corrections: only those of a policy, `episodes` of them.
    """
    if corrections:
        return [(number, "correction") for number in range(episodes)]
    kinds = ["full"] * episodes
    edges = np.round(np.cumsum(list(recording.clip_kinds.values())) * clips).astype(int)
    for kind, count in zip(recording.clip_kinds, np.diff(edges, prepend=0), strict=True):
        kinds += [kind] * int(count)
    order = np.random.default_rng([seed, 1]).permutation(len(kinds))
    return [(number, kinds[index]) for number, index in enumerate(order)]


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


_recorder: Recorder | None = None  # of this process


def _record_job(make: Callable[[], Recorder], staging: Staging, job: Job) -> int:
    """Record one episode with this process's recorder; returns its rows."""
    global _recorder
    _recorder = _recorder or make()
    return record_one(_recorder, staging, *job)


def record(make: Callable[[], Recorder], staging: Staging, jobs: list[Job], processes: int = 1) -> int:
    """Record what is missing of `jobs`; returns the number of rows recorded now.

    make: called in each process; it travels there by pickle. An episode whose process dies is recorded once more.
    Raises SimulatorError where a process fails; what is staged is kept.
    """
    staging.folder.mkdir(parents=True, exist_ok=True)
    left, rows_total = staging.missing(jobs), 0
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
                log.info("episode %d (%s): %d rows", *job, rows)
        except Exception as error:  # whatever a simulator raises
            kept = f"the episodes in {staging.folder} are kept"
            raise SimulatorError(f"a recording process failed: {type(error).__name__}: {error}; {kept}") from error
    return rows_total
