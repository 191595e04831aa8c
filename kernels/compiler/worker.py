# SPDX-License-Identifier: Apache-2.0
"""Processes that compile: Triton compiles one kernel at a time in a process, and some of its errors end the process.

A worker reads pickled variants from its standard input, each with the hash of its kernel's source, which must be its
own. It answers each with `Code`, or with one line of what failed. It starts in a clean environment
(`variant.clean_environment`) and ends with its input.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from lightwam.kernels.compiler.variant import Code, Variant, clean_environment, compile_variant, one_line, source_hash

#: Machine code, or why there is none, in one line.
Outcome = Code | str


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

    for target in dict.fromkeys(variant.target for variant in variants):
        queue = deque(index for index, variant in enumerate(variants) if variant.target == target)
        workers = max(1, min(jobs, len(queue)))
        with ThreadPoolExecutor(workers) as pool:
            try:
                for future in [pool.submit(_drain, queue, variants, done) for _ in range(workers)]:
                    future.result()
            except BaseException:
                queue.clear()
                raise
    return outcomes


def _drain(queue: deque[int], variants: Sequence[Variant], done: Callable[[int, Outcome], None]) -> None:
    """Pass variants to a worker until none is left; another worker takes the place of one that ended."""
    worker: subprocess.Popen[bytes] | None = None
    try:
        while queue:
            try:
                index = queue.popleft()
            except IndexError:  # another thread was faster
                return
            if worker is None or worker.poll() is not None:
                worker = _start_worker()
            done(index, _ask(worker, variants[index]))
    finally:
        if worker is not None:
            worker.communicate()  # its input ends, so it does


def _start_worker() -> subprocess.Popen[bytes]:
    environment = clean_environment(os.environ) | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "lightwam.kernels.compiler.worker"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )


def _ask(worker: subprocess.Popen[bytes], variant: Variant) -> Outcome:
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdin.write(pickle.dumps((variant, source_hash(variant.task.kernel))))
        worker.stdin.flush()
        outcome: Outcome = pickle.load(worker.stdout)
        return outcome
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        return f"the compiler's process ended with status {worker.wait()}"


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
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the compiler prints must not reach the answers
    serve(sys.stdin.buffer, pipe)
