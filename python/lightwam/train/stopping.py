# SPDX-License-Identifier: Apache-2.0
"""Signals that end a training: the step in work is finished and saved first, then the signal takes its usual effect."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ECHO = 1.0  # seconds: a closing terminal, a service manager or torchrun sends more than one


class StopRequest:
    """`signal` is the number of the signal that came, 0 while none has."""

    def __init__(self) -> None:
        self.signal = 0
        self._when = 0.0
        self._before: dict[int, object] = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.signal:
            self.signal, self._when = number, now
            line = f"{signal.Signals(number).name}: saving after this step; once more ends at once\n"
            with contextlib.suppress(OSError):  # not by logging: it may be what was interrupted
                os.write(2, line.encode())
        elif now > self._when + _ECHO:  # whoever sends it again does not want to wait
            self._hand_back()
            os.kill(os.getpid(), number)

    def _hand_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Signals in the block only set `StopRequest.signal`; a second one, a second later, has its usual effect at once.

    When the block ends well, the signal that came is raised again: the program then ends as it would have. Signals that
    this process ignores stay ignored; off the main thread none comes.
    """
    stop = StopRequest()
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        stop._before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        for number in stop._before:
            signal.signal(number, stop._receive)
    try:
        yield stop
    finally:
        stop._hand_back()
    if stop.signal:
        signal.raise_signal(stop.signal)
