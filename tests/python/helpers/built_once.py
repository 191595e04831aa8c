# SPDX-License-Identifier: Apache-2.0
"""Folders that are expensive to fill, built once for all processes of a test run."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

#: The folder of a name; the first process that needs it calls `build(folder)`, others wait. Tests only read it.
BuiltOnce = Callable[[str, Callable[[Path], object]], Path]


def built_once_in(root: Path) -> BuiltOnce:
    """Such folders below `root`."""
    root.mkdir(exist_ok=True)

    def folder(name: str, build: Callable[[Path], object]) -> Path:
        place, done = root / name, root / f"{name}.done"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process, however that ends
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)  # what a failed build left
                place.mkdir()
                build(place)
                done.touch()
        return place

    return folder
