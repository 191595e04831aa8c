# SPDX-License-Identifier: Apache-2.0
"""What is written to the terminal: plain columns, and streams whose failure ends no work.

A closed pipe, a full disk, a closed descriptor or an encoding without a character must not lose what a verb computed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO, cast

from lightwam.errors import escaped


class SafeStream:
    """A text stream that never raises on `write` and `flush`; it has the other attributes of the stream it wraps.

    A character that its encoding lacks is written as an escape. When the stream fails, what was not delivered, and all
    that follows, goes to `spare`, under a line that says why; after a closed pipe, whose reader had enough, to nobody.

    failure: what ended the stream, None while it works.
    """

    def __init__(self, stream: TextIO | None, spare: SafeStream | None = None) -> None:
        self._stream, self._spare = stream, spare
        self._undelivered = ""
        self.failure: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """True for a terminal that still takes text."""
        try:
            return self._stream is not None and self.failure is None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def write(self, text: str) -> int:
        """Write, and flush after each line."""
        if self._stream is None or self.failure is not None:
            self._write_spare(text)
            return len(text)
        self._undelivered += text
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:
            self._fail(error)
        if text.endswith(("\n", "\r")):
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Deliver what was written."""
        if self._stream is None or self.failure is not None:
            return
        try:
            self._stream.flush()
            self._undelivered = ""
        except (OSError, ValueError) as error:
            self._fail(error)

    @property
    def lost(self) -> bool:
        """True when the stream failed by itself: the reader of a pipe did not just have enough."""
        return self.failure is not None and getattr(self.failure, "errno", None) != errno.EPIPE

    def _fail(self, error: Exception) -> None:
        self.failure = error
        with contextlib.suppress(Exception):  # at exit the interpreter flushes it once more
            assert self._stream is not None
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        if self.lost:
            self._write_spare(
                f"the output cannot be written ({getattr(error, 'strerror', None) or error}); the rest:\n"
            )
        self._write_spare(self._undelivered)

    def _write_spare(self, text: str) -> None:
        if self._spare is not None and self.lost:
            self._spare.write(text)


def safe_stream(stream: TextIO | None) -> SafeStream:
    """The stream itself if it is safe already."""
    return stream if isinstance(stream, SafeStream) else SafeStream(stream)


@contextlib.contextmanager
def safe_output() -> Iterator[SafeStream]:
    """Standard output and standard error as safe streams within the block; yields standard output."""
    before = sys.stdout, sys.stderr
    waiting = [number for stream in before if (number := _without_waiting(stream)) is not None]
    for number in waiting:
        os.set_blocking(number, True)
    errors = safe_stream(sys.stderr)
    output = sys.stdout if isinstance(sys.stdout, SafeStream) else SafeStream(sys.stdout, errors)
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, errors)
    try:
        yield output
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = before
        for number in waiting:
            with contextlib.suppress(OSError):
                os.set_blocking(number, False)


def _without_waiting(stream: TextIO | None) -> int | None:
    """The descriptor of a stream that another program made non-blocking: Python would drop what does not fit."""
    try:
        number = stream.fileno() if stream is not None else -1
        return None if os.get_blocking(number) else number
    except (OSError, ValueError, AttributeError):
        return None


def table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> str:
    """Plain columns under an optional title, those of numbers (and their headers) aligned to the right.

    Line breaks and control characters become escapes: names come from files.
    """
    columns = []
    for name, *cells in zip(header, *rows, strict=True):
        texts = [escaped(cell) for cell in cells]
        width = max(map(len, (name, *texts)))
        numbers = bool(texts) and all(_is_number(text) for text in texts)
        columns.append([text.rjust(width) if numbers else text.ljust(width) for text in (name, *texts)])
    lines = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
    return "\n".join([escaped(title)] * bool(title) + lines)


def _is_number(text: str) -> bool:
    return text in ("", "-") or text.replace(".", "").isdigit()
