# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all: written aside, flushed to disk, renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path`, with its suffix, to write; it takes the name `path` when the block ends well.

    Otherwise it is removed and an older `path` stays. Missing parent folders are an OSError, as for `open`.
    """
    target = Path(path)
    building = target.with_name(f"{_aside(target.stem)}{target.suffix}")
    try:
        yield building
        _flush(building)
        os.replace(building, target)
    except BaseException:
        building.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the name `folder` when the block ends well, and is removed otherwise.

    An older `folder` is replaced as a whole; parent folders are made.
    """
    building = folder.with_name(_aside(folder.name))
    building.mkdir(parents=True)
    try:
        yield building
        for path in building.rglob("*"):
            _flush(path)
        old = folder.with_name(f"{building.name}.old")
        replaced = folder.exists()
        if replaced:
            folder.rename(old)
        try:
            building.rename(folder)
        except OSError:
            if replaced:
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _aside(name: str) -> str:
    """A hidden name that no other process or thread uses."""
    return f".{name}.{os.getpid()}.{secrets.token_hex(4)}.part"


def _flush(path: Path) -> None:
    """What was written reaches the disk before its name does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
