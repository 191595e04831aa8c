# SPDX-License-Identifier: Apache-2.0
"""Signals that end a verb: an exception in the main thread, so that everything on its way cleans up."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ECHO = 1.0  # seconds: a closing terminal, a service manager or `make` sends more than one


class Stopped(KeyboardInterrupt):
    """One of `SIGNALS` came; it ends the verb as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def stopped_by_signals(program: bool) -> Iterator[None]:
    """Raises Stopped when a signal of `SIGNALS` comes in the block, whatever the code that it met makes of it.

    A signal that comes within a second of the last is taken for its echo; a later one cuts the cleaning up short. One
    that this process was started to ignore (`nohup`) stays ignored. Off the main thread there are no signals.

    program: nothing but the end of the process follows, so signals end it at once from there on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[tuple[int, float]] = []

    def receive(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not received or now > received[-1][1] + _ECHO:
            received.append((number, now))
            raise Stopped(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    caught = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    try:
        for number in caught:
            signal.signal(number, receive)
        yield
    except BaseException as error:
        if not isinstance(error, Stopped) and (received or isinstance(error, KeyboardInterrupt)):
            raise Stopped(received[0][0] if received else signal.SIGINT) from error
        raise
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL if program else before[number])


def say_last(line: str) -> None:
    """A line to standard error. The terminal may be gone, which must not change the exit status."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
