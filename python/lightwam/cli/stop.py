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
_SOON = 0.05  # seconds until a signal is tried again that could not be raised
_IMPORTER = "<frozen importlib._bootstrap>"


class Stopped(KeyboardInterrupt):
    """One of `SIGNALS` came; it ends the verb as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


class _Receiver:
    """Raises a signal in the main thread, once the code there can bear an exception."""

    def __init__(self) -> None:
        self.received: list[tuple[int, float]] = []
        self._imports_outside = _imports(sys._getframe())
        self._later: list[threading.Timer] = []
        self._hook = sys.unraisablehook

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler of a signal."""
        now = time.monotonic()
        if self.received and now <= self.received[-1][1] + _ECHO:
            return
        if _imports(frame) > self._imports_outside:  # by a C++ library perhaps, which aborts at an exception
            self._try_again(number)
            return
        self.received.append((number, now))
        raise Stopped(number)

    def forgotten(self, unraisable: sys.UnraisableHookArgs) -> None:
        """In place of sys.unraisablehook: where Python drops exceptions (`__del__`, calls from C), signals stay."""
        if isinstance(unraisable.exc_value, Stopped):
            self.received.pop()
            self._try_again(unraisable.exc_value.signal)
        else:
            self._hook(unraisable)

    def close(self) -> None:
        """Nothing comes any more."""
        for timer in self._later:
            timer.cancel()

    def _try_again(self, number: int) -> None:
        timer = threading.Timer(_SOON, os.kill, (os.getpid(), number))
        timer.daemon = True
        self._later = [timer]
        timer.start()


def _imports(frame: FrameType | None) -> int:
    """How many calls of the importer are on the stack."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename == _IMPORTER
        frame = frame.f_back
    return count


@contextlib.contextmanager
def stopped_by_signals(program: bool) -> Iterator[None]:
    """Raises Stopped when a signal of `SIGNALS` comes in the block, whatever the code that it met makes of it.

    In the middle of an import it waits for the end of that. A signal that comes within a second of the last is taken
    for its echo; a later one cuts the cleaning up short. One that this process was started to ignore (`nohup`) stays
    ignored. Off the main thread there are no signals.

    program: nothing but the end of the process follows, so signals end it at once from there on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, hook = _Receiver(), sys.unraisablehook
    before = {number: signal.getsignal(number) for number in SIGNALS}
    caught = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    try:
        sys.unraisablehook = receiver.forgotten
        for number in caught:
            signal.signal(number, receiver.receive)
        yield
    except BaseException as error:
        if not isinstance(error, Stopped) and (receiver.received or isinstance(error, KeyboardInterrupt)):
            raise Stopped(receiver.received[0][0] if receiver.received else signal.SIGINT) from error
        raise
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL if program else before[number])
        receiver.close()
        sys.unraisablehook = hook
