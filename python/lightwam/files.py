# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all: written aside, flushed to disk, renamed; and files of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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
    old = folder.with_name(f"{building.name}.old")
    try:
        building.mkdir(parents=True)
        yield building
        for path in building.rglob("*"):
            _flush(path)
        try:
            if folder.exists():
                folder.rename(old)
            building.rename(folder)
        except BaseException:  # Ctrl-C among them
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def remove_unfinished(folder: Path, pid: int) -> None:
    """Remove what a process that is no more was writing aside in a folder. Files that cannot be removed stay."""
    for path in folder.glob(f".*.{pid}.*.part*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def read_json(path: Path, what: str, error: type[Exception], remedy: str) -> dict[str, Any]:
    """The JSON object in a file. Raises `error`, which says `what` the file is, what is wrong, and the remedy."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as reason:
        raise error(f"{what} {path} is missing: {remedy}") from reason
    except (OSError, ValueError) as reason:
        raise error(f"{what} {path} is unreadable ({reason}): {remedy}") from reason
    if not isinstance(document, dict):
        raise error(f"{what} {path} holds a {type(document).__name__}: it must hold a JSON object")
    return document


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
