# SPDX-License-Identifier: Apache-2.0
"""Processes that compile: Triton compiles one kernel at a time in a process, and some of its errors end the process.

A worker reads pickled variants from its standard input, each with the hash of its kernel's source, which must be its
own. It answers each with `Code`, or with one line of what failed. It starts in a clean environment
(`variant.clean_environment`) and ends with its input, and with the process that started it. A variant whose worker dies
is compiled once more.
"""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import BinaryIO

from lightwam.kernels.compiler.variant import Code, Variant, clean_environment, compile_variant, one_line, source_hash

log = logging.getLogger(__name__)

#: Machine code, or why there is none, in one line.
Outcome = Code | str

_ATTEMPTS = 2  # to compile a variant whose worker dies
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


class _Workers:
    """The processes that run now, and a folder for their temporary files."""

    def __init__(self, scratch: str) -> None:
        self.scratch, self.running, self.stopped = scratch, set[subprocess.Popen[bytes]](), False
        self._lock = threading.Lock()

    def start(self) -> subprocess.Popen[bytes]:
        """Another one. RuntimeError after `kill`."""
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = clean_environment(os.environ) | {"PYTHONPATH": paths, "TMPDIR": self.scratch}
        command = [sys.executable, "-m", "lightwam.kernels.compiler.worker"]
        with self._lock:
            if self.stopped:
                raise RuntimeError("the compilation was stopped")
            worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
            self.running.add(worker)
            return worker

    def end(self, worker: subprocess.Popen[bytes]) -> None:
        """End one that is idle, or is no more."""
        worker.communicate()  # its input ends, so it does
        with self._lock:
            self.running.discard(worker)

    def kill(self) -> None:
        """End all in the middle of what they do."""
        with self._lock:
            self.stopped = True
            for worker in self.running:
                worker.kill()


def compile_variants(
    variants: Sequence[Variant], jobs: int, on_done: Callable[[Variant, Outcome], None]
) -> dict[int, Outcome]:
    """Compile in `jobs` processes a target, target by target: index of the variant -> what came of it.

    `on_done` is called for each, in any order, from one thread at a time.
    """
    outcomes: dict[int, Outcome] = {}
    lock = threading.Lock()

    def done(index: int, outcome: Outcome) -> None:
        with lock:
            outcomes[index] = outcome
            on_done(variants[index], outcome)

    with tempfile.TemporaryDirectory(prefix="lightwam-compile-") as scratch:
        workers = _Workers(scratch)
        for target in dict.fromkeys(variant.target for variant in variants):
            queue = deque(index for index, variant in enumerate(variants) if variant.target == target)
            count = max(1, min(jobs, len(queue)))
            with ThreadPoolExecutor(count) as pool:
                try:
                    for future in as_completed(
                        pool.submit(_drain, queue, variants, done, workers) for _ in range(count)
                    ):
                        future.result()
                except BaseException:  # Ctrl-C among them
                    queue.clear()
                    workers.kill()
                    raise
    return outcomes


def _drain(
    queue: deque[int], variants: Sequence[Variant], done: Callable[[int, Outcome], None], workers: _Workers
) -> None:
    """Pass variants to a worker until none is left; another worker takes the place of one that died."""
    worker: subprocess.Popen[bytes] | None = None
    try:
        while queue:
            try:
                index = queue.popleft()
            except IndexError:  # another thread was faster
                return
            for attempt in range(_ATTEMPTS):
                worker = worker or workers.start()
                outcome = _ask(worker, variants[index])
                if worker.poll() is None or workers.stopped:
                    break
                workers.end(worker)
                worker = None
                if attempt + 1 < _ATTEMPTS:
                    log.warning("%s, in the middle of %s: it is compiled again", outcome, variants[index].name)
            done(index, outcome)
    finally:
        if worker is not None:
            workers.end(worker)


def _ask(worker: subprocess.Popen[bytes], variant: Variant) -> Outcome:
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdin.write(pickle.dumps((variant, source_hash(variant.task.kernel))))
        worker.stdin.flush()
        outcome: Outcome = pickle.load(worker.stdout)
        return outcome
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        return f"the compiler's process {worker.pid} ended with status {worker.wait()}"


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Compile variant after variant until the requests end."""
    while True:
        try:
            request: tuple[Variant, str] = pickle.load(requests)
        except EOFError:
            return
        variant, wanted = request
        outcome: Outcome
        try:
            if source_hash(variant.task.kernel) != wanted:
                raise ValueError("the kernel's source changed meanwhile: compile again")
            outcome = compile_variant(variant)
        except Exception as error:  # whatever the compiler raises: the parent tries another tactic
            outcome = one_line(error)
        pickle.dump(outcome, answers)
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's: whoever started this process ends it
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the thread that started it waits for it
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the compiler prints must not reach the answers
    serve(sys.stdin.buffer, pipe)
