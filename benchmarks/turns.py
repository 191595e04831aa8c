# SPDX-License-Identifier: Apache-2.0
"""A peer and ours taking turns, chunk by chunk, both resident in processes of their own: noise hits both alike."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from contenders import Setting
from prepare import last_line

OBSERVATIONS = 3  # different ones, so that no contender profits from having seen its input
WARMUP = {"nano": 6, "libero": 3}
PAUSE_S = 0.05  # threads that wait in a loop have gone to sleep by then
_PATIENCE_S = 1800  # compiling the full-size graph takes minutes


class ContenderError(Exception):
    """A contender's process ended or did not answer; the message is one line."""


class Turns:
    """The pipe to one contender's process."""

    def __init__(self, name: str, setting: Setting, log: Path) -> None:
        self.name = name
        self._log = log
        here = Path(__file__).parent
        command = [sys.executable, str(here / "worker.py"), name, setting.size, str(setting.folder)]
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [*command, str(setting.threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                text=True, env=_environment(setting.threads),
            )  # fmt: skip
        self.answers: list[dict[str, Any]] = []
        self.load_seconds = float(self._answer()["load_seconds"])

    def infer(self, index: int) -> dict[str, Any]:
        """One chunk of observation `index`."""
        answer = self._ask({"do": "infer", "observation": index})
        return {"observation": index, **answer}

    def finish(self) -> dict[str, Any]:
        """Peak memory and profiled stages; the process ends."""
        return self._ask({"do": "finish"})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failure() from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        pipe = self._process.stdout
        assert pipe is not None
        ready, _, _ = select.select([pipe], [], [], _PATIENCE_S)
        line = pipe.readline() if ready else ""
        if not line:
            raise self._failure()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failure(self) -> ContenderError:
        self._process.kill()
        status = self._process.wait()
        reason = "killed, mostly for lack of memory" if status == -9 else f"exit status {status}"
        return ContenderError(f"{self.name}: {reason}; {last_line(self._log)}")

    def close(self) -> None:
        """End the process if it is still there."""
        self._process.kill()
        self._process.wait()


def _environment(threads: int) -> dict[str, str]:
    """As many threads as everyone else, whichever library makes them."""
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {**os.environ, **counts}


@contextmanager
def _resident(names: Sequence[str], setting: Setting, logs: Path) -> Iterator[list[Turns]]:
    with ExitStack() as stack:
        turns = []
        for name in names:
            turns.append(Turns(name, setting, logs / f"{setting.size}-{name}.log"))
            stack.callback(turns[-1].close)
        yield turns


def take_turns(names: Sequence[str], setting: Setting, rounds: int, logs: Path, advance: Any) -> dict[str, Any]:
    """Rounds of one chunk each: {contender: {load_seconds, first_chunk_seconds, rounds: [...], ...}}.

    Raises `ContenderError`.
    """
    with _resident(names, setting, logs) as everyone:
        results: dict[str, Any] = {}
        for one in everyone:
            first = one.infer(0)
            for index in range(1, WARMUP[setting.size]):
                one.infer(index % OBSERVATIONS)
            results[one.name] = {
                "load_seconds": one.load_seconds,
                "first_chunk_seconds": one.load_seconds + first["seconds"],
                "rounds": [],
            }
            advance()
        for index in range(rounds):
            for one in everyone:
                time.sleep(PAUSE_S)
                results[one.name]["rounds"].append(one.infer(index % OBSERVATIONS))
            advance()
        for one in everyone:
            results[one.name].update(one.finish())
    return results
