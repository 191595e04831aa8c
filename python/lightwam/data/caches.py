# SPDX-License-Identifier: Apache-2.0
"""A cache of frames: every one decoded once, as uint8 canvases. Latents: `lightwam.data.latent_store`.

A cache is a folder of one `.npy` file per episode, named after what it depends on (the episode's rows and videos, the
canvas), so that growing a data set only adds files, and an interrupted build goes on where it
stopped.

Legend: n rows of an episode, H x W canvas.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightwam.arithmetic import default_arithmetic
from lightwam.config import FLIPS, CameraLayout
from lightwam.data.dataset import Dataset, Episode
from lightwam.data.frames import content_of, read_frames
from lightwam.data.images import RESIZE_ONCE, CanvasRule, canvas_uint8
from lightwam.errors import DataError
from lightwam.files import replacing_file
from lightwam.progress import counting_bar

Array = npt.NDArray[Any]


def episode_fingerprint(dataset: Dataset, episode: Episode, layout: CameraLayout) -> str:
    """16 hex digits of the episode's rows and of the frames of its cameras. Raises `DataError`: a file is missing."""
    digest = hashlib.sha256()
    span = slice(episode.start, episode.stop)
    digest.update(dataset.state[span].tobytes())
    digest.update(dataset.action[span].tobytes())
    for camera in layout.cameras:
        digest.update(content_of(episode.videos[camera.name]))
    return digest.hexdigest()[:16]


def layout_fingerprint(layout: CameraLayout, rule: CanvasRule = RESIZE_ONCE) -> str:
    """8 hex digits of a canvas layout, of how the data set's images lie, and of how they are resized."""
    cameras = []
    for camera in layout.cameras:
        up_down, left_right = FLIPS[camera.in_data]
        place = {"name": camera.name, "top": camera.top, "left": camera.left}
        size = {"height": camera.height, "width": camera.width}
        cameras.append({**place, **size, "flip_vertical": up_down, "flip_horizontal": left_right})
    document: dict[str, Any] = {"height": layout.height, "width": layout.width, "cameras": cameras}
    if rule != RESIZE_ONCE:
        document["rule"] = [rule.resize_first, rule.cover]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:8]


def save_array(path: Path, array: Array) -> None:
    """Write a `.npy` file that appears whole."""
    with replacing_file(path) as building:
        np.save(building, array)


def load_array(path: Path, shape: tuple[int, ...], dtype: str) -> Array:
    """Memory-map one cache file. Raises `DataError` when its shape or type is another."""
    try:
        array: Array = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"cache file {path} is unreadable ({error}): delete it and build the cache again") from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise DataError(
            f"cache file {path} holds {array.dtype} {array.shape} instead of {dtype} {shape}: delete it and build again"
        )
    return array


class FrameCache:
    """Every frame of a data set as a uint8 canvas [H, W, 3], one file per episode."""

    def __init__(self, dataset: Dataset, layout: CameraLayout, folder: Path, rule: CanvasRule = RESIZE_ONCE) -> None:
        dataset.check(tuple(camera.name for camera in layout.cameras), dataset.state.shape[1], dataset.action.shape[2])
        self.dataset, self.layout, self.folder, self.rule = dataset, layout, folder, rule

    def name(self, episode: Episode) -> str:
        """What tells an episode's canvases from all others."""
        episode_digits = episode_fingerprint(self.dataset, episode, self.layout)
        return f"{episode_digits}-{layout_fingerprint(self.layout, self.rule)}"

    def path(self, episode: Episode) -> Path:
        """The cache file of one episode."""
        return self.folder / f"frames-{self.name(episode)}.npy"

    def load(self, episode: Episode) -> npt.NDArray[np.uint8]:
        """uint8 [n, H, W, 3], memory-mapped."""
        height, width = self.rule.cover or (self.layout.height, self.layout.width)
        return load_array(self.path(episode), (episode.length, height, width, 3), "uint8")

    @default_arithmetic
    def build(self) -> int:
        """Decode what is not there yet; returns the number of episodes decoded. Raises `DataError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [episode for episode in self.dataset.episodes if not self.path(episode).exists()]
        first = self.layout.cameras[0].name
        missing.sort(key=lambda e: (str(e.videos[first].path), e.videos[first].first))
        names = [camera.name for camera in self.layout.cameras]
        streams = [read_frames([episode.videos[name] for episode in missing]) for name in names]
        with counting_bar("decode frames", show=True) as update:
            for done, (episode, *images) in enumerate(zip(missing, *streams, strict=True), 1):
                save_array(
                    self.path(episode), canvas_uint8(dict(zip(names, images, strict=True)), self.layout, self.rule)
                )
                update(done, len(missing))
        return len(missing)
