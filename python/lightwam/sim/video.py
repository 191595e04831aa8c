# SPDX-License-Identifier: Apache-2.0
"""Videos and contact sheets of trials: the simulator's picture over a strip that shows the chunk.

Legend: H W image size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from lightwam.arithmetic import default_arithmetic
from lightwam.data.episode_files import encoding_video
from lightwam.files import replacing_file
from lightwam.sim.closed_loop import FRAME_STRIDE
from lightwam.sim.env import Array

STRIP_HEIGHT = 16  # pixels under the cameras: one cell an executed step of the chunk
_CELL, _DONE, _IDLE = 12, (80, 200, 120), (70, 70, 70)


def compose_frame(picture_HWC: Array, chunk_step: int = 0, chunk_length: int = 0) -> Array:
    """A picture over the chunk's strip, uint8 RGB [H + strip, W, 3]; `chunk_step` of `chunk_length` cells are lit."""
    strip = np.zeros((STRIP_HEIGHT, picture_HWC.shape[1], 3), dtype=np.uint8)
    for number in range(chunk_length):
        left = 4 + number * (_CELL + 3)
        strip[3:-3, left : left + _CELL] = _DONE if number < chunk_step else _IDLE
    return np.concatenate([picture_HWC, strip])


def mark_outcome(frame: Array, success: bool) -> Array:
    """A copy of a composed frame with a green (success) or red border."""
    marked: Array = frame.copy()
    colour = np.array((80, 200, 120) if success else (220, 70, 60), dtype=np.uint8)
    marked[:6] = marked[-6:] = colour
    marked[:, :6] = marked[:, -6:] = colour
    return marked


@contextlib.contextmanager
def open_video(path: Path, control_hz: float) -> Iterator[Callable[[Array], None]]:
    """An mp4 (H.264) of a frame every `FRAME_STRIDE` control steps, which appears when the block ends well.

    The yielded function appends a frame, uint8 [H, W, 3]; H and W even, the same every time.

    Raises DataError where no frame was added.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(control_hz) / FRAME_STRIDE
    with replacing_file(path) as building, encoding_video(building, rate, {"crf": "20"}) as append:
        yield append


@default_arithmetic
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
    """Write a uint8 RGB image [H, W, 3] as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec: Any = av.CodecContext.create("png", "w")
    codec.height, codec.width = image.shape[:2]
    codec.pix_fmt, codec.time_base = "rgb24", Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    packets = [*codec.encode(frame), *codec.encode(None)]
    with replacing_file(path) as building:
        building.write_bytes(b"".join(bytes(packet) for packet in packets))
