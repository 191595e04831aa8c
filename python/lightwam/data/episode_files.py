# SPDX-License-Identifier: Apache-2.0
"""One recorded episode on disk: a folder with its rows and one small video a camera, written atomically.

Legend: T rows (rendered decision steps), K control steps a row, H W image size.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from lightwam.arithmetic import default_arithmetic
from lightwam.errors import DataError
from lightwam.files import read_json, replacing_folder

Array = npt.NDArray[Any]

ROWS_FILE = "rows.npz"
META_FILE = "episode.json"
VIDEO_OPTIONS = {"crf": "16", "preset": "veryfast", "g": "10", "bf": "0"}


@dataclass
class Episode:
    """A recorded episode in memory. Images are raw camera images, uint8 RGB [H, W, 3] a row."""

    task: str
    kind: str
    columns: dict[str, list[Array]] = field(default_factory=dict)  # name -> T arrays of one shape
    images: dict[str, list[Array]] = field(default_factory=dict)  # camera -> T images
    info: dict[str, Any] = field(default_factory=dict)

    def add_row(self, columns: dict[str, Array], images: dict[str, Array]) -> None:
        """Append one row; the same names every time."""
        for name, value in columns.items():
            self.columns.setdefault(name, []).append(value)
        for name, image in images.items():
            self.images.setdefault(name, []).append(image)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


def summary(values_NX: Array, count: int) -> dict[str, list[Any]]:
    """min, max, mean and std over the first axis, and the count, as LeRobot keeps them."""
    parts = {"min": values_NX.min(0), "max": values_NX.max(0), "mean": values_NX.mean(0), "std": values_NX.std(0)}
    return {**{name: part.tolist() for name, part in parts.items()}, "count": [count]}


def image_statistics(images: list[Array]) -> dict[str, list[float]]:
    """Per-channel `summary` (0..1) of T images [H, W, 3]."""
    pixels = np.stack(images)[:, ::2, ::2].reshape(-1, 3).astype(np.float64) / 255.0
    return summary(pixels, len(images))


@contextlib.contextmanager
def encoding_video(path: Path, rate: Fraction, options: Mapping[str, str]) -> Iterator[Callable[[Array], None]]:
    """An mp4 (H.264) to fill: the yielded function appends a uint8 RGB image [H, W, 3]; H, W even, always the same.

    Raises DataError where none was appended.
    """
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = None  # there is none before the first image

        def append(image_HWC: Array) -> None:
            nonlocal stream
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options=dict(options))
                stream.height, stream.width = image_HWC.shape[:2]
                stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image_HWC), format="rgb24")))

        yield append
        if stream is None:
            raise DataError("a video has no frame: add one before closing it")
        container.mux(stream.encode())


def write_video(path: Path, images: list[Array], fps: int) -> None:
    """Encode T images [H, W, 3] without B-frames, so that files can be joined without decoding."""
    with encoding_video(path, Fraction(fps), VIDEO_OPTIONS) as append:
        for image in images:
            append(image)


@default_arithmetic
def write_episode(folder: Path, episode: Episode, fps: int) -> None:
    """Write `episode` as `folder`; the folder appears only when it is complete. Raises DataError when it has no row."""
    if len(episode) == 0:
        raise DataError(f"episode {folder.name!r} has no row: record at least one")
    meta = {
        "task": episode.task,
        "kind": episode.kind,
        "rows": len(episode),
        "image_shape": {camera: list(images[0].shape) for camera, images in episode.images.items()},
        "image_statistics": {camera: image_statistics(images) for camera, images in episode.images.items()},
        **episode.info,
    }
    with replacing_folder(folder) as building:
        np.savez(building / ROWS_FILE, **{name: np.stack(rows) for name, rows in episode.columns.items()})  # type: ignore[arg-type]
        for camera, images in episode.images.items():
            write_video(building / f"{camera}.mp4", images, fps)
        (building / META_FILE).write_text(json.dumps(meta))


def read_episode_meta(folder: Path) -> dict[str, Any]:
    """The meta data written beside an episode's rows. Raises DataError where they are missing or damaged."""
    return read_json(folder / META_FILE, "episode file", DataError, "delete its folder and record again")


def read_episode_rows(folder: Path) -> dict[str, Array]:
    """The columns of an episode, each [T, ...]. Raises DataError where they are missing or damaged."""
    try:
        with np.load(folder / ROWS_FILE, allow_pickle=False) as rows:
            return {name: rows[name] for name in rows.files}
    except (OSError, ValueError) as error:
        raise DataError(f"rows of episode folder {folder} are damaged ({error}): delete it and record again") from error
