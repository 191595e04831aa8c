# SPDX-License-Identifier: Apache-2.0
"""Worker processes: they end with this process however it ends, and one that dies is an answer, never a hang.

Each worker is a fresh ("spawn") process with a pipe of its own, on which functions, jobs and results travel by pickle.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

from lightwam.files import remove_leftovers

log = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")

_GRACE = 5.0  # seconds that a worker has to clean up
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class WorkerDied(Exception):
    """A worker process ended in the middle of a job. One line: which, how, and in what job."""


@dataclass
class _Worker:
    """A process and the job that it works on; `pipe` is this process's end."""

    process: BaseProcess
    pipe: connection.Connection
    job: int | None = None
    group: Hashable = None  # of its last job

    def how_it_ended(self) -> str:
        """Which process, and its status or signal. Waits for the end."""
        self.process.join(_GRACE)
        if self.process.exitcode is None:  # it closed its pipe and lives on
            self.process.kill()
            self.process.join()
        code = self.process.exitcode or 0
        number = -code if code < 0 else code - 128
        named = {known.value: known.name for known in signal.Signals}
        how = f"was ended by {named[number]}" if number in named else f"ended with status {code}"
        return f"process {self.process.pid} {how}"


@dataclass
class _Pool:
    """The workers of one call of `run_jobs`."""

    function: bytes
    unfinished: Path | None
    workers: list[_Worker] = field(default_factory=list)

    def start(self) -> _Worker:
        """Another worker. Signals reach it only once it has decided what to do with them (`_serve`)."""
        resource_tracker.ensure_running()  # starting it lets SIGINT and SIGTERM through
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process.start()
            self.workers.append(_Worker(process, ours))
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with contextlib.suppress(OSError):  # it is dead already: the first job says so
            ours.send_bytes(self.function)
        return self.workers[-1]

    def remove(self, worker: _Worker) -> str:
        """How a dead worker ended; what it left half written is removed."""
        how = worker.how_it_ended()
        self.workers.remove(worker)
        worker.pipe.close()
        self._remove_leftovers()
        return how

    def end(self, patience: float) -> None:
        """End all workers: those that don't within `patience` seconds get SIGTERM, then SIGKILL."""
        for worker in self.workers:
            worker.pipe.close()  # an idle one ends
        for stop in (lambda process: None, BaseProcess.terminate):
            for worker in self.workers:
                stop(worker.process)
            deadline = time.monotonic() + patience
            for worker in self.workers:
                worker.process.join(max(0.0, deadline - time.monotonic()))
            patience = _GRACE
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        if self.unfinished is not None:
            remove_leftovers(self.unfinished)


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    processes: int = 1,
    *,
    attempts: int = 2,
    unfinished: Path | None = None,
    group: Callable[[Job], Hashable] | None = None,
) -> Generator[tuple[Job, Result], None, None]:
    """Compute function(job) in `processes` worker processes; yields (job, result) in the order of their end.

    attempts: how often a job is tried whose worker dies; each death but the last is logged.
    group: a worker goes on with jobs of its last one's group (that need the same scene, say) while there are any.
    unfinished: a folder in which workers write (`lightwam.files`); what a dead one left half written is removed.

    Raises WorkerDied after the last attempt, and whatever `function` raises. Then, and when the caller leaves the loop
    in any way, Ctrl-C among them, all workers are ended. Once yielded a result is no longer held here.
    """
    pool = _Pool(pickle.dumps(function), unfinished)
    waiting, tried = list(range(len(jobs))), [0] * len(jobs)
    patience = 0.0
    try:
        while waiting or any(worker.job is not None for worker in pool.workers):
            _hand_out(pool, jobs, waiting, processes, group)
            busy = {worker.pipe: worker for worker in pool.workers if worker.job is not None}
            for pipe in connection.wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                index, worker.job = worker.job, None
                assert index is not None
                tried[index] += 1
                try:
                    kind, value = pickle.loads(worker.pipe.recv_bytes())
                except (EOFError, OSError):
                    died = f"{pool.remove(worker)} in the middle of job {index + 1} of {len(jobs)}"
                    if tried[index] >= attempts:
                        again = f", as {attempts - 1} before it" if attempts > 1 else ""
                        raise WorkerDied(died + again) from None
                    log.warning("%s: the job is done again in another process", died)
                    waiting.insert(0, index)
                    continue
                if kind == "error":
                    raise value
                yield jobs[index], value
        patience = 2 * _GRACE
    finally:
        pool.end(patience)


def _hand_out(
    pool: _Pool, jobs: Sequence[Any], waiting: list[int], processes: int, group: Callable[[Any], Hashable] | None
) -> None:
    """Give waiting jobs to idle workers, and to new ones up to `processes`."""
    idle = [worker for worker in pool.workers if worker.job is None]
    while waiting and (idle or len(pool.workers) < processes):
        worker = idle.pop() if idle else pool.start()
        worker.job = next_job(jobs, waiting, worker, pool.workers, group)
        with contextlib.suppress(OSError):  # it is dead: the end of its pipe says so
            worker.pipe.send_bytes(pickle.dumps(jobs[worker.job]))


class _Grouped(Protocol):
    """A worker, and the group of its last job."""

    group: Any


def next_job(
    jobs: Sequence[Job], waiting: list[int], worker: _Grouped, workers: Sequence[_Grouped],
    group: Callable[[Job], Hashable] | None,
) -> int:  # fmt: skip
    """Take a worker's next job out of `waiting`: of its own group; else of one that nobody works at; else the first."""
    chosen = waiting[0]
    if group is not None:
        taken = {other.group for other in workers if other is not worker}
        groups = {index: group(jobs[index]) for index in waiting}
        own = [index for index in waiting if groups[index] == worker.group]
        free = [index for index in waiting if groups[index] not in taken]
        chosen = (own or free or waiting)[0]
        worker.group = groups[chosen]
    waiting.remove(chosen)
    return chosen


def _serve(pipe: connection.Connection) -> None:
    """A worker's life: the function, then job after job until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's: whoever started this process ends it
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    function: Callable[[Any], Any] | None = None
    while True:
        try:
            message = pipe.recv_bytes()
        except (EOFError, OSError):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to clean up
            return
        try:
            loaded = pickle.loads(message)
            if function is None:
                function = loaded
                continue
            answer = pickle.dumps(("result", function(loaded)))
        except Exception as error:  # whatever the job raises
            answer = pickle.dumps(("error", _portable(error)))
        with contextlib.suppress(OSError):  # nobody waits for it any more
            pipe.send_bytes(answer)


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # another one would only disturb the cleaning up
    raise SystemExit(128 + number)  # what is being written aside is removed on the way


def _end_with_parent() -> None:
    """End this process when its parent is no more, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(128 + signal.SIGTERM)


def _portable(error: Exception) -> Exception:
    """The error, or what it says where it cannot travel by pickle."""
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    except Exception:  # whatever its class does in there
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")
