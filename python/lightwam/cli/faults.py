# SPDX-License-Identifier: Apache-2.0
"""One line, with a remedy, for an error that is not lightwam's own."""

from __future__ import annotations

import errno
import importlib.util
import os
import traceback

from lightwam.errors import escaped
from lightwam.extras import missing_module

_REMEDIES = {
    errno.ENOSPC: "free some room there, or give another path",
    errno.EDQUOT: "free some room there, or give another path",
    errno.EROFS: "give a path that can be written",
    errno.EACCES: "give a path that this user may read and write",
    errno.EPERM: "give a path that this user may read and write",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "give a file, not a folder",
    errno.EEXIST: "give another path",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "close files, or allow more with ulimit -n",
    errno.ENFILE: "close files of other programs",
    errno.EFBIG: "allow larger files with ulimit -f, or give a path on another disk",
    errno.EIO: "check that disk, or give a path on another one",
    errno.ESTALE: "connect that network disk again, or give another path",
    errno.ELOOP: "give a path without links in a circle",
    errno.ETXTBSY: "end the program that runs it, or give another path",
    errno.ENOSYS: "use another path",
}


def unexpected(error: Exception, extras: tuple[str, ...]) -> str:
    """What went wrong in a verb that requires `extras`, and what to do."""
    kind, text = type(error).__name__, (escaped(str(error).strip().partition("\n")[0]) or "no reason given")
    frames = traceback.extract_tb(error.__traceback__)
    place = frames[-1].filename if frames else "an unknown place"
    if isinstance(error, ModuleNotFoundError):
        name = error.name or str(error)
        if name.partition(".")[0] == "lightwam":
            return f"InstallationError: {name} is missing: run pip install . in a checkout of lightwam"
        found = _origin(name.partition(".")[0])
        if found is None:
            return missing_module(name, extras)
        return f"{kind}: {found} has no {name}: take it off the path, or install it again"
    if isinstance(error, ImportError):
        where = error.path or place
        return f"{kind}: {text} (in {where}): take that off the path, or install it again"
    if isinstance(error, MemoryError):
        return f"out of memory ({text}): give it less at once"
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        where = error.filename2 or error.filename
        if where is None:
            return f"{kind}: {error.strerror}: {_without_a_path(error)}"
        return f"{kind}: {escaped(os.fsdecode(where))}: {error.strerror}; {_REMEDIES[error.errno]}"
    line = f", line {frames[-1].lineno}" if frames else ""
    return (
        f"unexpected {kind}: {text} (in {place}{line}): python -X dev -m lightwam.cli VERB ... shows where it came from"
    )


def _without_a_path(error: OSError) -> str:
    """What to do about an error that names no file."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "the folder that this shell stands in was removed; cd to another one"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _REMEDIES[error.errno]
    return "check the disk, /dev/shm and the folder for temporary files (TMPDIR)"


def _origin(module: str) -> str | None:
    """Where a module is found; None where it is not."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin or module
