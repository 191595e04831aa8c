# SPDX-License-Identifier: Apache-2.0
"""Tables of a LeRobot data set: only the columns that somebody reads, as NumPy arrays.

Legend: N rows of all files together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lightwam.data.dataset import Report, refuse
from lightwam.errors import DataError
from lightwam.files import unreadable

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tables:
    """The row tables of a data set, in order; `starts` holds the first row of each, and N at the end."""

    root: Path
    paths: tuple[Path, ...]
    starts: npt.NDArray[np.int64]
    names: tuple[str, ...]
    """Columns of the first file."""

    def numbers(self, name: str) -> npt.NDArray[np.float32]:
        """A column of numbers, or of (nested) lists of numbers of one length: float32 [N, ...].

        Raises `DataError`: there is no such column, it is no numbers, ragged, or not finite.
        """
        return self.load({name: np.float32})[name]

    def load(self, types: Mapping[str, type[np.generic]], report: Report = refuse) -> dict[str, Array]:
        """Several columns as by `numbers`, each of its type; every file is read once.

        NaN and infinity are reported; with a `report` that does not raise they stay in the arrays.
        """
        if missing := [name for name in types if name not in self.names]:
            raise DataError(
                f"data set {self.root} has no column {missing[0]!r}, only {list(self.names)}: choose another data set"
            )
        parts: dict[str, list[Array]] = {name: [] for name in types}
        for path in self.paths:
            for name, part in self._file(path, types).items():
                parts[name].append(part)
        return {name: self._joined(name, arrays, report) for name, arrays in parts.items()}

    def _file(self, path: Path, types: Mapping[str, type[np.generic]]) -> dict[str, Array]:
        try:
            with pq.ParquetFile(path) as file:
                table = file.read(columns=list(types))
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self.root, path, error) from error
        arrays = {}
        for name, dtype in types.items():
            try:
                arrays[name] = as_array(table[name], dtype)
            except KeyError as error:
                raise DataError(f"{path} has no column {name!r}, other files of the set do: record it again") from error
            except (TypeError, ValueError, pa.ArrowException) as error:
                raise DataError(f"{path}: column {name!r} is unfit ({_line(error)}): record it again") from error
        return arrays

    def _joined(self, name: str, parts: list[Array], report: Report) -> Array:
        widths = sorted({part.shape[1:] for part in parts if len(part)})
        if len(widths) > 1:
            raise DataError(f"data set {self.root} has rows of unequal width {widths} in {name!r}: record it again")
        values = np.concatenate([part for part in parts if len(part)] or parts[:1])
        finite = np.isfinite(values).reshape(len(values), -1).all(1)
        if not finite.all():
            rows = np.flatnonzero(~finite)
            report(
                DataError(
                    f"data set {self.root} has NaN or infinity in {name!r}, {len(rows)} times, first in row {rows[0]}: "
                    "leave those episodes out or record them again"
                )
            )
        return values


def as_array(column: pa.ChunkedArray, dtype: type[np.generic]) -> Array:
    """Numbers or (nested) lists of numbers of one length as an array. Raises `ValueError` where they are not."""
    values = column.combine_chunks()
    shape = [len(values)]
    while isinstance(values, pa.ExtensionArray):
        values = values.storage
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or _is_fixed(values.type):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) > 1 or lengths == [None]:
            raise ValueError(f"lists of unequal width: {lengths[:4]}")
        shape.append(lengths[0] if lengths else 0)
        values = values.flatten()
    if shape[0] == 0:
        return np.zeros((0,), dtype)
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)):
        raise ValueError(f"it holds {values.type}, no numbers")
    return np.asarray(values.to_numpy(zero_copy_only=False)).astype(dtype).reshape(shape)


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))


def open_tables(root: Path, paths: Sequence[Path]) -> Tables:
    """Read the sizes and column names of these files. Raises `DataError`: there is none, or one is unreadable."""
    if not paths:
        raise DataError(f"data set {root} is empty: it has no Parquet files; record at least one episode")
    rows, names = [0], list[tuple[str, ...]]()
    for path in paths:
        try:
            metadata = pq.read_metadata(path)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(root, path, error) from error
        rows.append(metadata.num_rows)
        names.append(tuple(metadata.schema.to_arrow_schema().names))
    return Tables(root, tuple(paths), np.cumsum(rows), names[0])


def read_records(root: Path, paths: Sequence[Path], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Rows of small tables (tasks, episodes) as mappings; columns that a file lacks are left out."""
    if not paths:
        raise DataError(f"data set {root} is empty: it has no Parquet files; record at least one episode")
    rows: list[dict[str, Any]] = []
    for path in paths:
        try:
            names = None if columns is None else [name for name in pq.read_schema(path).names if name in columns]
            rows += pq.read_table(path, columns=names).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise _damaged(root, path, error) from error
    return rows


def _damaged(root: Path, path: Path, error: Exception) -> DataError:
    told = unreadable(path, _line(error), "record it again", ("parquet",))
    return DataError(f"data set {root} is damaged: {path} is {told}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
