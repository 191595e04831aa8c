# SPDX-License-Identifier: Apache-2.0
"""The command line in a process of its own, to be sent signals; and what became of the processes that it started."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lightwam

PATIENCE = 120.0  # seconds, on a busy machine


def start(
    *words: str | Path, path: Path | None = None, script: Path | None = None, under: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """`lightwam WORDS`, output and errors in pipes.

    path: one more folder to import from. script: run in place of the command. under: a command before it, `nohup` say.
    """
    folders = [str(Path(lightwam.__file__).parents[1]), str(Path(__file__).parents[1]), *([str(path)] if path else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    program = ("-m", "lightwam.cli") if script is None else (str(script),)
    command = [*under, sys.executable, *program, *map(str, words)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_own_signals
    )
    atexit.register(process.kill)  # a failed test leaves nothing behind
    return process


def _own_signals() -> None:
    """Not ignored, as by tests that a shell runs in the background."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_until(condition: Callable[[], object]) -> None:
    """Waits for the condition; AssertionError when it does not come true."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "it did not come true"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that this one started and that run."""
    found = []
    for folder in Path("/proc").iterdir():
        fields = _fields(folder) if folder.name.isdigit() else []
        if fields and fields[0] != "Z" and int(fields[1]) == pid:
            found.append(int(folder.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    fields = _fields(Path("/proc") / str(pid))
    return bool(fields) and fields[0] != "Z"


def command_line(pid: int) -> str:
    """The words of a process; empty when it is no more."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _fields(folder: Path) -> list[str]:
    """State, parent, ... of a process."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
