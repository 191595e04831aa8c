# SPDX-License-Identifier: Apache-2.0
"""Frames of a data set: videos of any codec that PyAV reads, encoded images in Parquet and HDF5 files.

A file is opened once and decoded in order; only a span that lies before the previous one, or far behind it, makes a
video jump (to the key frame before it). A video's frames are found by their times: frame k is the one at k / fps
seconds, so a camera that dropped frames is an error and never an image of another row.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lightwam.data.dataset import FrameSpan
from lightwam.errors import DataError
from lightwam.file_kind import file_kind

Images = npt.NDArray[np.uint8]
_FAR = 100  # frames that are rather jumped over than decoded


class _Store(Protocol):
    """An open file of frames."""

    def read(self, span: FrameSpan) -> Images: ...

    def close(self) -> None: ...


def read_frames(spans: Iterable[FrameSpan]) -> Iterator[Images]:
    """Decode spans one by one; yields uint8 [count, h, w, 3] (RGB) for each.

    Spans of one file that come one after the other are decoded in one pass. Raises `DataError`: a file is missing,
    damaged, too short, or lacks a frame at its time.
    """
    opened: tuple[Path, str | None] | None = None
    store: _Store | None = None
    try:
        for span in spans:
            if store is None or opened != (span.path, span.column):
                if store is not None:
                    store.close()
                store, opened = _open(span), (span.path, span.column)
            yield _read(store, span)
    finally:
        if store is not None:
            store.close()


def _open(span: FrameSpan) -> _Store:
    if span.column is None:
        return _Video(span.path)
    if span.path.suffix == ".parquet":
        return _ParquetImages(span.path, span.column)
    return _HDF5Images(span.path, span.column)


def _read(store: _Store, span: FrameSpan) -> Images:
    if span.picks is None:
        return store.read(span)
    images = store.read(replace(span, count=max(span.picks) + 1, picks=None))
    return images[list(span.picks)]


def content_of(span: FrameSpan) -> bytes:
    """What tells these frames from others: their place in the file, its size and 256 KiB of its bytes, spread over it.

    Raises `DataError`: the file is missing.
    """
    try:
        status = span.path.stat()
        digest = _content_of_file(span.path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{span.path} is missing ({error}): record the data set again") from error
    place: tuple[object, ...] = (span.first, span.count, span.fps, span.column, span.swapped)
    place += () if span.picks is None else (span.picks,)
    return digest + repr(place).encode()


@functools.lru_cache(maxsize=100_000)
def _content_of_file(path: Path, size: int, changed_ns: int) -> bytes:
    """`changed_ns` only keeps an older answer of the same path apart."""
    digest, block, blocks = hashlib.sha256(str(size).encode()), 1 << 15, 8
    with path.open("rb") as file:
        if size <= block * blocks:
            digest.update(file.read())
        else:  # the tables of an MP4, Parquet or HDF5 file, which tell the sizes of all parts, lie at one of its ends
            for i in range(blocks):
                file.seek((size - block) * i // (blocks - 1))
                digest.update(file.read(block))
    return digest.digest()


class _Video:
    def __init__(self, path: Path) -> None:
        import av

        self.path, self.next = path, 0
        self.errors = (av.FFmpegError, OSError)
        try:
            self.container = av.open(str(path))
            if not self.container.streams.video:
                self.container.close()
                raise DataError(f"video {path} has no video stream: record the data set again")
            self.stream: Any = self.container.streams.video[0]
            self.stream.thread_type = "NONE"
            self.frames: Iterator[Any] = self.container.decode(video=0)
        except self.errors as error:
            raise self._damaged(error) from error

    def read(self, span: FrameSpan) -> Images:
        try:
            if span.first < self.next or (span.fps is not None and span.first > self.next + _FAR):
                self._go_to(span)
            return np.stack([self._frame(k, span.fps) for k in range(span.first, span.first + span.count)])
        except self.errors as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        self.container.close()

    def _frame(self, wanted: int, fps: float | None) -> Images:
        """Frame number `wanted`; those before it are passed over."""
        for frame in self.frames:
            number = self.next
            if fps is not None and frame.pts is not None:
                number = round(float(frame.pts * self.stream.time_base) * fps)
            self.next = max(self.next, number + 1)
            if number == wanted:
                return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            if number > wanted and fps is not None:
                raise DataError(
                    f"video {self.path} has no frame at {wanted / fps:.3f} s (number {wanted} at {fps:g} a second), "
                    f"the next is at {number / fps:.3f} s: frames were dropped; leave the episode out or record again"
                )
        raise DataError(f"video {self.path} ends before frame {wanted}: record the data set again")

    def _go_to(self, span: FrameSpan) -> None:
        if span.fps is None:
            self.container.seek(0, stream=self.stream)
            self.next = 0
        else:
            seconds = max(span.first - 0.5, 0) / span.fps
            self.container.seek(int(seconds / self.stream.time_base), stream=self.stream)
            self.next = span.first
        self.frames = self.container.decode(video=0)

    def _damaged(self, error: Exception) -> DataError:
        if (kind := file_kind(self.path)).remedy:
            return DataError(f"video {self.path} is {kind}")
        return DataError(f"video {self.path} is missing or damaged ({error}): record the data set again")


class _ParquetImages:
    """A column of {bytes, path} or of bytes; one row group is in memory at a time."""

    def __init__(self, path: Path, column: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path, self.column, self.errors = path, column, (OSError, pa.ArrowException)
        try:
            self.file = pq.ParquetFile(path)
        except self.errors as error:
            raise self._damaged(error) from error
        sizes = [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]
        self.starts = np.cumsum([0, *sizes])
        self.group, self.rows = -1, []  # type: tuple[int, list[Any]]

    def read(self, span: FrameSpan) -> Images:
        if span.first + span.count > self.starts[-1]:
            raise DataError(f"{self.path} has {self.starts[-1]} rows, too few for row {span.first + span.count - 1}")
        return _stacked([self._image(row, span) for row in range(span.first, span.first + span.count)], span)

    def close(self) -> None:
        self.file.close()

    def _image(self, row: int, span: FrameSpan) -> Images:
        group = int(np.searchsorted(self.starts, row, "right")) - 1
        if group != self.group:
            try:
                self.rows = self.file.read_row_group(group, columns=[self.column])[self.column].to_pylist()
            except (*self.errors, KeyError) as error:
                raise self._damaged(error) from error
            self.group = group
        return decode_image(self._encoded(self.rows[row - self.starts[group]], row), span, row)

    def _encoded(self, value: Any, row: int) -> bytes:
        encoded = value.get("bytes") if isinstance(value, dict) else value
        if encoded is None and isinstance(value, dict) and value.get("path"):
            try:  # LeRobot's paths start at the data set's root, three folders above a table
                encoded = (self.path.parents[2] / value["path"]).read_bytes()
            except OSError as error:
                raise DataError(f"image {value['path']} of {self.path}, row {row}, is missing ({error})") from error
        if not isinstance(encoded, bytes):
            raise DataError(f"{self.path}: {self.column!r} holds no image in row {row}: record the data set again")
        return encoded

    def _damaged(self, error: Exception) -> DataError:
        reason = " ".join(str(error).split())
        return DataError(f"images {self.column!r} of {self.path} are missing or damaged ({reason}): record them again")


class _HDF5Images:
    """One encoded image a step (variable-length or padded bytes), or plain uint8 [T, h, w, 3]."""

    def __init__(self, path: Path, column: str) -> None:
        from lightwam.data.hdf5 import open_hdf5

        self.path, self.file = path, open_hdf5(path)
        self.images = self.file.get(column)

    def read(self, span: FrameSpan) -> Images:
        stop = span.first + span.count
        if not hasattr(self.images, "shape") or len(self.images) < stop:
            have = len(self.images) if hasattr(self.images, "shape") else "no"
            raise DataError(f"{self.path} has {have} images in {span.column!r}: {stop} are needed; record it again")
        try:
            values = self.images[span.first : stop]
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"images {span.column!r} of {self.path} are damaged ({error}): record it again") from error
        if values.ndim == 4 and values.dtype == np.uint8 and values.shape[-1] == 3:
            return np.ascontiguousarray(values[..., ::-1] if span.swapped else values)
        encoded = [v if isinstance(v, bytes) else np.asarray(v).tobytes() for v in values]
        return _stacked([decode_image(data, span, span.first + i) for i, data in enumerate(encoded)], span)

    def close(self) -> None:
        self.file.close()


def decode_image(encoded: bytes, span: FrameSpan, row: int) -> Images:
    """A PNG, JPEG, ... as uint8 [h, w, 3]. Raises `DataError`, which names the file, the column and the row."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError(f"images in {span.path} need Pillow, which is not installed: pip install pillow") from error
    where = f"{span.path}: {span.column!r}, row {row}"
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.mode not in ("RGB", "RGBA", "L", "P"):
                raise DataError(f"{where} holds an image of mode {image.mode}: give 8-bit RGB images")
            pixels = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} holds no readable image ({error}): leave the episode out or record again") from error
    return np.ascontiguousarray(pixels[..., ::-1] if span.swapped else pixels)


def _stacked(images: list[Images], span: FrameSpan) -> Images:
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise DataError(f"{span.path}: images of {span.column!r} have the sizes {shapes[:3]}: give them one size")
    return np.stack(images)
