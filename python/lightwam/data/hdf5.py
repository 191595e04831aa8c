# SPDX-License-Identifier: Apache-2.0
"""What the HDF5 readers share: opening a file, arrays of numbers, texts, episode files by their number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lightwam.data.dataset import Array
from lightwam.errors import DataError


def open_hdf5(path: Path) -> Any:
    """An open `h5py.File`, to read. Raises `DataError`: h5py is not installed, the file is missing or damaged."""
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"reading {path} needs h5py, which is not installed: pip install h5py") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"HDF5 file {path} is missing or damaged ({reason}): record it again") from error


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """As `open_hdf5`, closed at the end; a read that fails inside is a `DataError`, too."""
    with open_hdf5(path) as file:
        try:
            yield file
        except (OSError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"HDF5 file {path} is damaged ({reason}): record it again") from error


def numbers(file: Any, name: str) -> Array:
    """A data set of finite numbers as float32 [T, width]. Raises `DataError`."""
    path = file.filename
    values = file.get(name)
    if not hasattr(values, "shape"):
        raise DataError(f"HDF5 file {path} has no data set {name!r}, only {sorted(file)}: choose another data set")
    if values.ndim != 2 or values.dtype.kind not in "fiu" or 0 in values.shape:
        raise DataError(f"HDF5 file {path}: {name!r} is {values.dtype} {values.shape}: it must be numbers [T, width]")
    array = np.asarray(values[()], np.float32)
    if not np.isfinite(array).all():
        raise DataError(f"HDF5 file {path} has NaN or infinity in {name!r}: leave the episode out or record it again")
    return array


def text(value: object) -> str:
    """A string attribute or entry, which h5py delivers as str, bytes or an array of one."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def episode_files(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """(number, path) of files whose whole name fits `pattern` with one group of digits, by number: 2 before 10."""
    found = []
    for path in folder.glob("*"):
        if match := re.fullmatch(pattern, path.name):
            found.append((int(match[1]), path))
    return sorted(found)


def same_widths(root: Path, what: str, arrays: list[Array]) -> None:
    """Raise `DataError` unless all arrays [T, width] have one width."""
    widths = sorted({array.shape[1] for array in arrays})
    if len(widths) > 1:
        raise DataError(f"data set {root} has {what} of the widths {widths}: an episode is of another robot")
