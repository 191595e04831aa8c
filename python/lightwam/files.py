# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all: written aside, flushed to disk, renamed; and files of JSON."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from lightwam.file_kind import FileKind, file_kind

#: What a JSON file may have at most.
MAX_JSON_BYTES = 1 << 28
MAX_JSON_LEVELS = 64
_LONGEST_NAME = 200  # bytes of a name that are kept in that of the file beside it; systems allow 255
_OLD = ".old"
_LEFTOVER = re.compile(
    r"(?P<aside>\.(?P<name>.+)\.(?P<machine>[0-9a-f]{8})\.(?P<process>[1-9][0-9]{0,9})\.[0-9a-f]{8}\.part)(?P<suffix>.*)",
    re.DOTALL,
)
_WRITTEN_HERE: set[str] = set()
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_TOO_DEEP = f"JSON deeper than {MAX_JSON_LEVELS} levels"


def check_output(
    out: Path,
    what: str,
    error: type[Exception],
    is_ours: Callable[[Path, FileKind], bool],
    inputs: Iterable[Path | None] = (),
    folder: bool = False,
    option: str = "--out",
) -> None:
    """Whether a verb may write its result, a file or a `folder`, as `out`; to be called before the work.

    `option` is the one that names `out`.

    Raises `error` where `out` is, or a folder `out` holds, one of the `inputs`; where something is there that is
    neither empty nor `is_ours` (of the path that a symbolic link leads to, and its kind); where `out` cannot be made.
    """
    place = Path(os.path.realpath(out))
    for source in inputs:
        if source is not None and Path(os.path.realpath(source)).is_relative_to(place):
            raise error(f"{option} is {out}, which is or holds the input {source}: give another {option}")
    kind = file_kind(place)
    if kind.name == "unreadable":
        raise error(f"{out} cannot be written, it is {kind.what}: give another {option}")
    nothing = "empty folder" if folder else "empty"
    fits = place.is_dir() if folder else place.is_file()
    if kind.name not in ("missing", nothing) and not (fits and is_ours(place, kind)):
        held = ", ".join(sorted(os.listdir(place))[:4]) if place.is_dir() else ""
        told = f"holds other things than {what} ({held})" if held else f"is not {what} of lightwam but {kind.what}"
        raise error(f"{out} {told}: nothing is replaced; give another {option}")
    parent = next(folder for folder in place.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise error(f"{out} cannot be written: {parent} is no folder that you may write in; give another {option}")


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path`, with its suffix, to write; it takes the name `path` when the block ends well.

    Otherwise it is removed and an older `path` stays. A symbolic link stays one: the file that it leads to is replaced.
    What killed processes left in the folder is removed first (`remove_leftovers`). Raises OSError, which names `path`:
    for missing parent folders, a full disk, a folder or a device of that name.
    """
    target = Path(os.path.realpath(path))
    remove_leftovers(target.parent)
    with _aside(target, target.stem, target.suffix[-50:]) as building:
        try:
            if target.exists() and not target.is_file():
                taken = errno.EISDIR if target.is_dir() else errno.EEXIST
                raise OSError(taken, "is no ordinary file", os.fspath(target))
            yield building
            _flush(building)
            os.replace(building, target)
            _flush_names(target.parent)
        except BaseException as error:
            building.unlink(missing_ok=True)
            names = (None, os.fspath(building), os.fsencode(building))
            if isinstance(error, OSError) and error.errno is not None and error.filename in names:
                error.filename, error.filename2 = os.fspath(path), None
            raise


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the name `folder` when the block ends well, and is removed otherwise.

    An older `folder` is replaced as a whole, that of a symbolic link where it lies; parent folders are made. Of two
    processes that write the same folder, the last one's stays. Leftovers as for `replacing_file`.
    """
    folder = Path(os.path.realpath(folder))
    remove_leftovers(folder.parent)
    with _aside(folder, folder.name) as building:
        try:
            building.mkdir(parents=True)
            yield building
            for path in (*building.rglob("*"), building):
                _flush(path)
            _take_name(building, folder)
            _flush_names(folder.parent)
        except BaseException as error:
            shutil.rmtree(building, ignore_errors=True)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = os.fspath(folder)
            raise


def replace_link(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target` (relative to its folder); an older link is replaced in one step.

    Raises OSError: EEXIST where something else than a link has the name.
    """
    if link.exists() and not link.is_symlink():
        raise FileExistsError(errno.EEXIST, "is no link", os.fspath(link))
    with _aside(link, link.name) as building:
        try:
            building.symlink_to(target)
            os.replace(building, link)
            _flush_names(link.parent)
        except BaseException:
            building.unlink(missing_ok=True)
            raise


def remove_folder(folder: Path) -> None:
    """Remove a folder that is ours. It loses its name first: what a killed process leaves of it is a leftover."""
    with _aside(folder, folder.name) as leaving:
        folder.rename(leaving)
        shutil.rmtree(leaving)


def _take_name(building: Path, folder: Path, attempts: int = 100) -> None:
    """Rename `building` to `folder`; what had the name is removed after it, or gets it back."""
    old = folder.with_name(f"{building.name}{_OLD}")
    for attempt in range(attempts):
        try:
            with contextlib.suppress(FileNotFoundError):
                folder.rename(old)
            building.rename(folder)
        except BaseException as error:  # Ctrl-C among them
            if old.exists() and not folder.exists():
                old.rename(folder)
            taken = isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if not taken or attempt == attempts - 1:
                raise
        else:
            shutil.rmtree(old, ignore_errors=True)
            return
        shutil.rmtree(old, ignore_errors=True)  # another process was between the two


def remove_leftovers(folder: Path, *, alone: bool = False) -> None:
    """Remove what processes that were killed left unfinished in a folder, by the names that this module gives.

    Only what belongs to this user, from this machine (and container), of a process that is gone. A folder that was put
    aside and never replaced gets its name back.

    alone: a lock keeps all other processes out of the folder, so that what other machines left is removed too.
    """
    with contextlib.suppress(OSError):
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            match = _LEFTOVER.fullmatch(entry.name)
            if match is None:
                continue
            here = match["machine"] == _machine()
            if (not here and not alone) or (here and _is_writing(int(match["process"]), match["aside"])):
                continue
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                    _remove_leftover(folder, entry, match)


def _remove_leftover(folder: Path, entry: os.DirEntry[str], match: re.Match[str]) -> None:
    if not entry.is_dir(follow_symlinks=False):
        os.unlink(entry)
    elif match["suffix"] == _OLD and not (folder / match["name"]).exists():
        os.rename(entry, folder / match["name"])
    else:
        shutil.rmtree(entry)


def _is_writing(process: int, aside: str) -> bool:
    """Whether the process that made this name may still write there."""
    if process == os.getpid():
        return aside in _WRITTEN_HERE
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def unreadable(path: str | os.PathLike[str], reason: object, remedy: str, expected: tuple[str, ...] = ("json",)) -> str:
    """What follows "FILE is": its kind where it is none of the `expected` ones, else the `reason` that its reader gave.

    The kind's own remedy (`git lfs pull`) goes before `remedy`.
    """
    kind = file_kind(path)
    if kind.name in ("unknown", "unreadable", *expected):
        return f"unreadable ({reason}): {remedy}"
    return str(kind) if kind.remedy else f"unreadable, it is {kind.what} ({reason}): {remedy}"


def read_json(path: Path, what: str, error: type[Exception], remedy: str, any_number: bool = False) -> dict[str, Any]:
    """The JSON object in a file. Raises `error`, which says `what` the file is, what is wrong, and the remedy.

    `any_number` as for `parse_json`.
    """
    try:
        document = load_json(path, any_number)
    except FileNotFoundError as reason:
        raise error(f"{what} {path} is missing: {remedy}") from reason
    except (OSError, ValueError) as reason:
        raise error(f"{what} {path} is {unreadable(path, reason, remedy)}") from reason
    if not isinstance(document, dict):
        raise error(f"{what} {path} holds a {type(document).__name__}: it must hold a JSON object")
    return document


def load_json(path: Path, any_number: bool = False) -> Any:
    """The value of a JSON file. Raises OSError, and ValueError (one line) for what is no JSON (`parse_json`)."""
    with path.open("rb") as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"it has more than {MAX_JSON_BYTES} bytes")
    return parse_json(content.removeprefix(b"\xef\xbb\xbf"), any_number)  # some editors write these three


def parse_json(text: str | bytes, any_number: bool = False) -> Any:
    """The value of a JSON text; everything that reads JSON reads it with this. Raises ValueError (one line) alone.

    As strict as the engine's own reader (csrc/engine/json.hpp): UTF-8, no key twice, at most 64 levels, no NaN or
    infinity, every number within float64, every text of whole characters. `any_number` takes what Python's writer
    makes of NaN and infinity, for readers that name the place where one stands.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        document = (_ANY_NUMBER if any_number else _DECODER).decode(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not valid UTF-8") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    with_halves = _HALF.search(text) is not None
    level, depth = [document], 1
    while level:
        if depth > MAX_JSON_LEVELS:
            raise ValueError(_TOO_DEEP)
        if with_halves:
            _require_characters(level)
        level, depth = [item for node in level for item in _inside(node)], depth + 1
    return document


def _inside(node: Any) -> Iterable[Any]:
    """The values in a list or an object; none in anything else."""
    return node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def _require_characters(values: Iterable[Any]) -> None:
    for value in values:
        for text in value if isinstance(value, dict) else (value,):
            if isinstance(text, str) and any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError(f"the text {short(text)} holds half a surrogate pair")


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        key, _ = Counter(key for key, _ in members).most_common(1)[0]
        raise ValueError(f"an object names the key {short(key)} twice")
    return found


def _integer(text: str) -> int:
    _real(text)
    return int(text)


def _any_integer(text: str) -> int | float:
    number = float(text)
    return int(text) if isfinite(number) else number


def _real(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"the number {text if len(text) < 80 else text[:80] + '...'} is out of range")
    return number


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_no_number)
_ANY_NUMBER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_any_integer)


def short(value: object, length: int = 80) -> str:
    """A value's text for a message, cut: what a file holds must not fill the terminal."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits, lists in lists without end
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= length else f"{text[:length]}..."


@cache
def _machine() -> str:
    """Where a process's number means something: the same for processes that see each other alone."""
    parts = [os.uname().nodename]
    with contextlib.suppress(OSError):
        parts.append(Path("/etc/machine-id").read_text())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


@contextlib.contextmanager
def _aside(target: Path, name: str, suffix: str = "") -> Iterator[Path]:
    """A hidden path beside `target` that no other process or thread uses. `_LEFTOVER` matches its name."""
    kept = os.fsdecode(os.fsencode(name)[: _LONGEST_NAME - len(os.fsencode(suffix))])
    aside = f".{kept}.{_machine()}.{os.getpid()}.{secrets.token_hex(4)}.part"
    _WRITTEN_HERE.add(aside)
    try:
        yield target.with_name(aside + suffix)
    finally:
        _WRITTEN_HERE.discard(aside)


def _flush_names(folder: Path) -> None:
    """New names of a folder reach the disk, where its file system can promise that."""
    with contextlib.suppress(OSError):
        _flush(folder)


def _flush(path: Path) -> None:
    """What was written reaches the disk before its name does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
