# SPDX-License-Identifier: Apache-2.0
"""One line, with a remedy, for an error that is not lightwam's own."""

from __future__ import annotations

import errno
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
    errno.ENOMEM: "give it less at once",
}


def unexpected(error: Exception, extras: tuple[str, ...]) -> str:
    """What went wrong in a verb that requires `extras`, and what to do."""
    kind, text = type(error).__name__, (escaped(str(error).strip().partition("\n")[0]) or "no reason given")
    if isinstance(error, ModuleNotFoundError):
        name = error.name or str(error)
        if name.partition(".")[0] == "lightwam":
            return f"InstallationError: {name} is missing: run pip install . in a checkout of lightwam"
        return missing_module(name, extras)
    if isinstance(error, ImportError):
        name = (error.name or "a module").partition(".")[0]
        return f"{kind}: {name} is installed but cannot be imported ({text}): install it again"
    if isinstance(error, MemoryError):
        return f"out of memory ({text}): give it less at once"
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        place = error.filename2 or error.filename or "a file"
        return f"{kind}: {escaped(str(place))}: {error.strerror}; {_REMEDIES[error.errno]}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "an unknown place"
    return f"unexpected {kind}: {text} (in {place}): python -X dev -m lightwam.cli VERB ... shows where it came from"
