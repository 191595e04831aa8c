# SPDX-License-Identifier: Apache-2.0
"""One `lightwam` command in a process of its own, which ends with this one and gets its signals."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lightwam.errors import StageError

Run = Callable[[Sequence[str], str, Path], None]
"""`run_command`, or what stands for it: a command's words, the step's name, the file for what it prints."""

_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG, linux/prctl.h
_LIBC = ctypes.CDLL(None)


def run_command(words: Sequence[str], name: str, log: Path) -> None:
    """Run `lightwam WORDS`; what it prints is appended to `log`. It has one thread but where an option says more.

    Whatever ends the waiting (Ctrl-C, SIGTERM) is passed on, and the command's end waited for: it saves what it has.
    Raises StageError where the command does not end with status 0.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        output.write(f"$ lightwam {shlex.join(words)}\n".encode())
        output.flush()
        child = subprocess.Popen(
            [sys.executable, "-m", "lightwam.cli", *words], stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, env=environment, preexec_fn=_end_with_parent,
        )  # fmt: skip
        try:
            status = child.wait()
        except BaseException as error:
            _stop(child, getattr(error, "signal", signal.SIGINT))
            raise
    if status:
        raise StageError(f"{name} {_how(status)}: {last_line(log)} ({log}); the same command goes on from there")


def last_line(log: Path) -> str:
    """The last line that a command printed."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return text.strip().rpartition("\n")[2].strip() or "it said nothing"


def _stop(child: subprocess.Popen[bytes], number: int) -> None:
    try:
        child.send_signal(number)
        child.wait()
    except BaseException:  # another signal: it was in a hurry
        child.kill()
        child.wait()
        raise


def _how(status: int) -> str:
    number = -status if status < 0 else status - 128
    known = {one.value: one.name for one in signal.Signals}
    return f"was ended by {known[number]}" if number in known else f"ended with status {status}"


def _end_with_parent() -> None:
    """In the child: SIGTERM when the parent ends, however it ends."""
    _LIBC.prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
