# SPDX-License-Identifier: Apache-2.0
"""Old names of public attributes: they answer for one release, with a DeprecationWarning."""

from __future__ import annotations

import warnings
from typing import Any


def old_name(old: str, new: str) -> Any:
    """A property that reads the attribute `new` and warns."""

    def read(self: object) -> Any:
        warn_old_name(old, new, 3)
        return getattr(self, new)

    return property(read, doc=f"The old name of `{new}`.")


def warn_old_name(old: str, new: str, level: int = 3) -> None:
    """Say that `old` is now `new`; `level` as of `warnings.warn`."""
    warnings.warn(f"{old} is now called {new}; the old name goes with the next release", DeprecationWarning, level)
