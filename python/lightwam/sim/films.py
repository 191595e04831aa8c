# SPDX-License-Identifier: Apache-2.0
"""Videos of trials: of all or of the failures, one mp4 each; failures also as contact sheets."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import av

from lightwam.errors import ConfigError, DataError
from lightwam.progress import counting_bar
from lightwam.sim.closed_loop import AddPicture, Trial
from lightwam.sim.env import Array
from lightwam.sim.plan import UNPERTURBED, Job
from lightwam.sim.video import compose_frame, contact_sheet, mark_outcome, open_video

WHICH = ("all", "failures")
_ROWS, _COLUMNS = 20, 8  # of a contact sheet


class _NotWanted(Exception):
    """A film that is thrown away."""


@dataclass(frozen=True)
class Films:
    """Which trials are filmed, and where the films go; no folder: none. `prefix`: after suite and task, in names."""

    folder: Path | None = None
    which: str = "all"
    states: str = "official"

    def check(self) -> None:
        """Make the folder. Raises ConfigError where it cannot be written, or `which` is unknown."""
        if self.which not in WHICH:
            raise ConfigError(f"--videos-of {self.which}: choose one of {', '.join(WHICH)}")
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--videos {self.folder} cannot be written ({error.strerror}): give another") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise ConfigError(f"--videos {self.folder} is a read-only folder: give another")

    def path(self, job: Job) -> Path:
        """Where the film of a trial goes."""
        perturb = "" if job.perturb == UNPERTURBED else "_" + job.perturb.replace(":", "-")
        name = f"{job.task.suite}_{job.task.index}_{self.states}{perturb}_{job.index:03d}.mp4"
        return (self.folder or Path()) / name

    def film(self, job: Job, control_hz: float, run: Callable[[AddPicture | None], Trial]) -> Trial:
        """Run a trial, which is given who takes its pictures, and keep the film if it is wanted; the trial names it."""
        if self.folder is None:
            return run(None)
        found: list[Trial] = []
        with contextlib.suppress(_NotWanted), open_video(self.path(job), control_hz) as append:
            found.append(run(lambda picture_HWC, _: append(compose_frame(picture_HWC))))
            if self.which == "failures" and found[0].success:
                raise _NotWanted
        if self.which == "all" or not found[0].success:
            path = self.path(job)
            found[0].film = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        return found[0]

    def beside(self, report: Path) -> list[str]:
        """The folder as a report names it: relative to the report's own folder; none where nothing is filmed."""
        return [] if self.folder is None else [os.path.relpath(self.folder, report.parent)]

    def sheets(self, failed: Iterable[Job]) -> list[Path]:
        """Contact sheets of the failures that were filmed, a line each: failures_1.png, ..."""
        if self.folder is None:
            return []
        jobs = [job for job in failed if self.path(job).is_file()]
        pages = [jobs[start : start + _ROWS] for start in range(0, len(jobs), _ROWS)]
        paths = []
        with counting_bar("contact sheets", len(jobs) > 10) as on_progress:
            for number, page in enumerate(pages):
                lines = []
                for row, job in enumerate(page):
                    frames = _frames(self.path(job))
                    lines.append([*frames[:-1], mark_outcome(frames[-1], False)])
                    on_progress(number * _ROWS + row + 1, len(jobs))
                paths.append(self.folder / f"failures_{number + 1}.png")
                contact_sheet(lines, _COLUMNS, paths[-1])
        return paths


def _frames(path: Path) -> list[Array]:
    """The frames that a line of a contact sheet shows, spread evenly over a film. Raises DataError: damaged."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            last = max(stream.frames - 1, 1)
            wanted = {round(number * last / (_COLUMNS - 1)) for number in range(_COLUMNS)}
            frames = enumerate(container.decode(stream))
            return [frame.to_ndarray(format="rgb24") for number, frame in frames if number in wanted]
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"film {path} is damaged ({error}): remove it") from error
