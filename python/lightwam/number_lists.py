# SPDX-License-Identifier: Apache-2.0
"""Lists of numbers as options take them: 3, 0-9, or 0-99,150."""

from __future__ import annotations

import re


def ranges_in(listed: str) -> tuple[range, ...] | None:
    """The ranges of a list, in its order, each of at least one number; None where it is no such list."""
    found = []
    for part in listed.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if last < first:
            return None
        found.append(range(first, last + 1))
    return tuple(found)
