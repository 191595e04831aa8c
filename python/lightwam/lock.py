# SPDX-License-Identifier: Apache-2.0
"""A lock on a folder: one process at a time; it is free as soon as that process has ended, however it ended."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
from pathlib import Path

log = logging.getLogger(__name__)

_HELD: set[int] = set()
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class FolderLock:
    """Held from its making to `release`. The file stays: its content tells who held it last.

    A file system without locks gives a warning, and no lock.

    Args:
        path: the file, beside what it protects.
        what: names that in messages.
        error: what is raised where another process holds it (the message says which, and on what machine), or where
            the file cannot be opened.
    """

    def __init__(self, path: Path, what: str, error: type[Exception]) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as reason:
            raise error(f"lock {path} cannot be opened ({reason.strerror}): give another --out") from reason
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as reason:
            if reason.errno in _NO_LOCKS:
                log.warning("%s: this file system has no locks, so another run in there would not be noticed", what)
            else:
                holder = _holder(self._file)
                os.close(self._file)
                told = f"{what} is in use by {holder}: wait for its end, or give another --out"
                raise error(told) from reason
        _HELD.add(self._file)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps({"process": os.getpid(), "host": platform.node()}).encode(), 0)

    def release(self) -> None:
        """Give the lock up; twice does no harm."""
        if self._file in _HELD:
            _HELD.discard(self._file)
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)  # for a child, too, that is just being forked
            os.close(self._file)
            self._file = -1


def _holder(file: int) -> str:
    try:
        document = json.loads(os.pread(file, 1000, 0))
        return f"process {int(document['process'])} on {document['host']}"
    except (ValueError, KeyError, TypeError, OSError):
        return "another process"


def _forget_in_child() -> None:
    """A forked child (a loader's worker) would keep the lock of a parent that was killed."""
    for file in _HELD:
        with contextlib.suppress(OSError):
            os.close(file)
    _HELD.clear()


os.register_at_fork(after_in_child=_forget_in_child)
