# SPDX-License-Identifier: Apache-2.0
"""Progress bars: one line that is written anew on a terminal, and once, at the end, elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator

from lightwam.terminal import safe_stream

Advance = Callable[[int], None]

_WIDTH = 24  # of the bar itself, characters
_EVERY = 0.1  # seconds between two writings


class _Bar:
    """How much of `total` is done, and how long the rest takes; `total` 0: not known yet."""

    def __init__(self, label: str, total: int = 0, done: int = 0, *, count: bool = True, stderr: bool = False) -> None:
        self.total, self.done, self.note = total, done, ""
        self._label, self._first, self._count = label, done, count
        self._began, self._written, self._length = time.monotonic(), 0.0, 0
        self._stream = safe_stream(sys.stderr if stderr else sys.stdout)
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"

    def update(self, done: int, total: int) -> None:
        """Show so much."""
        self.done, self.total = done, total
        if self._live and time.monotonic() - self._written >= _EVERY:
            self._write("\r")

    def finish(self) -> None:
        """Leave the last state on the screen."""
        self._write("\n")

    def _write(self, end: str) -> None:
        self._written = time.monotonic()
        line = self._line(last=end == "\n")
        if self._live:
            line = line[: max(shutil.get_terminal_size().columns - 1, 1)]
            line, self._length = line.ljust(self._length), len(line)
        self._stream.write(line + end)
        self._stream.flush()

    def _line(self, last: bool) -> str:
        share = min(self.done / self.total, 1.0) if self.total else 0.0
        parts = [self._label]
        if self._live:
            filled = round(share * _WIDTH)
            parts.append(f"[{'#' * filled}{'-' * (_WIDTH - filled)}]")
        parts.append(f"{self.done}/{self.total}" if self._count else f"{share:.0%}")
        seconds = self._written - self._began
        if last:
            parts.append(_clock(seconds))
        elif self.done > self._first:
            parts.append(f"{_clock(seconds * (self.total - self.done) / (self.done - self._first))} left")
        return "  ".join([*parts, self.note] if self.note else parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(round(seconds), 0), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@contextlib.contextmanager
def _shown(bar: _Bar) -> Iterator[_Bar]:
    try:
        yield bar
    finally:
        bar.finish()


@contextlib.contextmanager
def progress_bar(label: str, total: int, show: bool) -> Iterator[Advance]:
    """A bar on the terminal that the yielded function advances; a function that does nothing when not `show`."""
    if not show:
        yield lambda _: None
        return
    with _shown(_Bar(label, total, count=False)) as bar:
        yield lambda count: bar.update(bar.done + count, total)


@contextlib.contextmanager
def counting_bar(label: str, show: bool, stderr: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar with numbers: the yielded function takes how much is done, and of how much."""
    if not show:
        yield lambda done, total: None
        return
    with _shown(_Bar(label, stderr=stderr)) as bar:
        yield bar.update


@contextlib.contextmanager
def rate_bar(label: str, total: int, unit: str, show: bool) -> Iterator[Advance]:
    """A bar with a rate, `30/100  12 rows/s`, which the yielded function advances."""
    if not show:
        yield lambda _: None
        return
    began = time.monotonic()
    with _shown(_Bar(label, total)) as bar:

        def advance(count: int) -> None:
            done = bar.done + count
            bar.note = f"{done / max(time.monotonic() - began, 1e-3):.3g} {unit}/s"
            bar.update(done, total)

        yield advance


@contextlib.contextmanager
def tally_bar(label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int, int], None]]:
    """A bar with a tally, `3/10  2 solved`: the yielded function advances both, the second in `unit`."""
    tally = 0
    with _shown(_Bar(label, total, done)) as bar:

        def advance(count: int, more: int) -> None:
            nonlocal tally
            tally += more
            bar.note = f"{tally} {unit}"
            bar.update(bar.done + count, total)

        bar.note = f"0 {unit}"
        yield advance
