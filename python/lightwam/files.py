# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all: written aside, flushed to disk, renamed; and files of JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lightwam.file_kind import FileKind, file_kind

_LONGEST_NAME = 200  # bytes of a name that are kept in that of the file beside it; systems allow 255


def check_output(
    out: Path,
    what: str,
    error: type[Exception],
    is_ours: Callable[[Path, FileKind], bool],
    inputs: Iterable[Path | None] = (),
    folder: bool = False,
) -> None:
    """Whether a verb may write its result, a file or a `folder`, as `out`; to be called before the work.

    Raises `error` where `out` is, or a folder `out` holds, one of the `inputs`; where something is there that is
    neither empty nor `is_ours` (of the path that a symbolic link leads to, and its kind); where `out` cannot be made.
    """
    place = Path(os.path.realpath(out))
    for source in inputs:
        if source is not None and Path(os.path.realpath(source)).is_relative_to(place):
            raise error(f"--out is {out}, which is or holds the input {source}: give another --out")
    kind = file_kind(place)
    if kind.name == "unreadable":
        raise error(f"{out} cannot be written, it is {kind.what}: give another --out")
    nothing = "empty folder" if folder else "empty"
    fits = place.is_dir() if folder else place.is_file()
    if kind.name not in ("missing", nothing) and not (fits and is_ours(place, kind)):
        held = ", ".join(sorted(os.listdir(place))[:4]) if place.is_dir() else ""
        told = f"holds other things than {what} ({held})" if held else f"is not {what} of lightwam but {kind.what}"
        raise error(f"{out} {told}: nothing is replaced; give another --out")
    parent = next(folder for folder in place.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise error(f"{out} cannot be written: {parent} is no folder that you may write in; give another --out")


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path`, with its suffix, to write; it takes the name `path` when the block ends well.

    Otherwise it is removed and an older `path` stays. A symbolic link stays one: the file that it leads to is replaced.
    Raises OSError, which names `path`: for missing parent folders, a full disk, a folder or a device of that name.
    """
    target = Path(os.path.realpath(path))
    building = target.with_name(f"{_aside(target.stem)}{target.suffix[-50:]}")
    try:
        if target.exists() and not target.is_file():
            raise OSError(errno.EISDIR if target.is_dir() else errno.EEXIST, "is no ordinary file", os.fspath(target))
        yield building
        _flush(building)
        os.replace(building, target)
    except BaseException as error:
        building.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, os.fspath(building), os.fsencode(building)):
            error.filename, error.filename2 = os.fspath(path), None
        raise


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the name `folder` when the block ends well, and is removed otherwise.

    An older `folder` is replaced as a whole, that of a symbolic link where it lies; parent folders are made. Of two
    processes that write the same folder, the last one's stays.
    """
    folder = Path(os.path.realpath(folder))
    building = folder.with_name(_aside(folder.name))
    building.mkdir(parents=True)
    try:
        yield building
        for path in building.rglob("*"):
            _flush(path)
        _take_name(building, folder)
    except BaseException as error:
        shutil.rmtree(building, ignore_errors=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = os.fspath(folder)
        raise


def _take_name(building: Path, folder: Path, attempts: int = 100) -> None:
    """Rename `building` to `folder`; what had the name is removed after it, or gets it back."""
    old = folder.with_name(f"{building.name}.old")
    for attempt in range(attempts):
        replaced = True
        try:
            folder.rename(old)
        except FileNotFoundError:
            replaced = False
        try:
            building.rename(folder)
        except OSError as error:
            taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST)  # another process was between the two
            if replaced and not taken:
                old.rename(folder)
            elif replaced:
                shutil.rmtree(old, ignore_errors=True)
            if not taken or attempt == attempts - 1:
                raise
            continue
        shutil.rmtree(old, ignore_errors=True)
        return


def unreadable(path: str | os.PathLike[str], reason: object, remedy: str, expected: tuple[str, ...] = ("json",)) -> str:
    """What follows "FILE is": its kind where it is none of the `expected` ones, else the `reason` that its reader gave.

    The kind's own remedy (`git lfs pull`) goes before `remedy`.
    """
    kind = file_kind(path)
    if kind.name in ("unknown", "unreadable", *expected):
        return f"unreadable ({reason}): {remedy}"
    return str(kind) if kind.remedy else f"unreadable, it is {kind.what} ({reason}): {remedy}"


def read_json(path: Path, what: str, error: type[Exception], remedy: str) -> dict[str, Any]:
    """The JSON object in a file. Raises `error`, which says `what` the file is, what is wrong, and the remedy."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as reason:
        raise error(f"{what} {path} is missing: {remedy}") from reason
    except (OSError, ValueError) as reason:
        raise error(f"{what} {path} is {unreadable(path, reason, remedy)}") from reason
    if not isinstance(document, dict):
        raise error(f"{what} {path} holds a {type(document).__name__}: it must hold a JSON object")
    return document


def _aside(name: str) -> str:
    """A hidden name that no other process or thread uses."""
    short = os.fsdecode(os.fsencode(name)[:_LONGEST_NAME])
    return f".{short}.{os.getpid()}.{secrets.token_hex(4)}.part"


def _flush(path: Path) -> None:
    """What was written reaches the disk before its name does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
