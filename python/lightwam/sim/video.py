# SPDX-License-Identifier: Apache-2.0
"""Closed-loop videos and contact sheets: both cameras upright and side by side, with a strip that shows the chunk.

Legend: H W image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from lightwam.errors import DataError
from lightwam.sim.libero.env import CONTROL_HZ, Observation

Array = npt.NDArray[Any]

STRIP_HEIGHT = 16  # pixels under the cameras: one cell an executed step of the chunk
_CELL, _DONE, _IDLE = 12, (80, 200, 120), (70, 70, 70)


def compose_frame(observation: Observation, chunk_step: int = 0, chunk_length: int = 0) -> Array:
    """Upright cameras side by side, uint8 [H + strip, W * cameras, 3]; `chunk_step` of `chunk_length` cells are lit."""
    views = [np.asarray(image)[::-1, ::-1] for image in observation["images"].values()]
    frame = np.concatenate(views, axis=1)
    strip = np.zeros((STRIP_HEIGHT, frame.shape[1], 3), dtype=np.uint8)
    for number in range(chunk_length):
        left = 4 + number * (_CELL + 3)
        strip[3:-3, left : left + _CELL] = _DONE if number < chunk_step else _IDLE
    return np.concatenate([frame, strip])


def mark_outcome(frame: Array, success: bool) -> Array:
    """A copy of a composed frame with a green (success) or red border."""
    marked: Array = frame.copy()
    colour = np.array((80, 200, 120) if success else (220, 70, 60), dtype=np.uint8)
    marked[:6] = marked[-6:] = colour
    marked[:, :6] = marked[:, -6:] = colour
    return marked


class VideoSink:
    """Collects frames of a trial into an mp4 (H.264), written to a temporary name and renamed when closed."""

    def __init__(self, path: Path, *, frame_stride: int = 2, chunk_length: int = 0) -> None:
        self._path, self._chunk_length = path, chunk_length
        self._temporary = path.with_name(path.name + ".tmp")
        self._rate = Fraction(CONTROL_HZ, frame_stride)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container: Any = av.open(str(self._temporary), "w", format="mp4")
        self._stream: Any = None

    def add(self, observation: Observation, step: int, chunk_step: int) -> None:
        """Append the frame of one control step."""
        self.add_frame(compose_frame(observation, chunk_step, self._chunk_length))

    def add_frame(self, frame: Array) -> None:
        """Append a uint8 image [H, W, 3]; H and W even, the same every time."""
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._rate, options={"crf": "20"})
            self._stream.height, self._stream.width = frame.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.thread_count = 1
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
            self._container.mux(packet)

    def close(self) -> None:
        """Finish the file. Raises DataError where no frame was added."""
        if self._stream is None:
            self._container.close()
            self._temporary.unlink(missing_ok=True)
            raise DataError(f"video {self._path} has no frame: add one before closing it")
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        self._temporary.replace(self._path)

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._container.close()
            self._temporary.unlink(missing_ok=True)


def contact_sheet(rows: Sequence[Sequence[Array]], columns: int, path: Path) -> None:
    """A PNG with one line a trial: `columns` frames spread evenly over it, halved in size. All frames alike."""
    lines = []
    for frames in rows:
        picked = np.linspace(0, len(frames) - 1, columns).round().astype(int)
        lines.append(np.concatenate([_halved(frames[index]) for index in picked], axis=1))
    sheet = np.concatenate(lines)
    write_png(path, sheet)


def _halved(frame: Array) -> Array:
    even = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2].astype(np.uint16)
    quarter = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return np.asarray(quarter // 4, dtype=np.uint8)


def write_png(path: Path, image: Array) -> None:
    """Write a uint8 image [H, W, 3] as PNG, through a temporary name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    codec: Any = av.CodecContext.create("png", "w")
    codec.height, codec.width = image.shape[:2]
    codec.pix_fmt, codec.time_base = "rgb24", Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    packets = [*codec.encode(frame), *codec.encode(None)]
    temporary.write_bytes(b"".join(bytes(packet) for packet in packets))
    temporary.replace(path)
