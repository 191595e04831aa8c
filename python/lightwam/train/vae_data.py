# SPDX-License-Identifier: Apache-2.0
"""Batches of the VAE's training: frames, short clips and the places of objects, out of one or more data sets.

Legend: N images, H x W canvas, F frames of a clip, K located objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.data.caches import FrameCache
from lightwam.data.dataset import Dataset, Episode, Rows
from lightwam.data.images import scale_pixels
from lightwam.data.sources import open_datasets
from lightwam.data.windows import build_windows, rows_of, split_episodes
from lightwam.errors import DataError
from lightwam.train.device import to_device
from lightwam.train.fingerprint import dataset_identity
from lightwam.train.options import FrameInputs

LOCATED = ("privileged.target_xy", "privileged.basket_xy")


class FrameSource:
    """Batches of frames and clips of some data sets, on a device. Frames stay on disk: memory does not grow with them.

    Attributes:
        training, held_out: rows, numbered through all data sets.
        located: positions of the objects in each row, z-scored, [rows, 2 K].
        mean_image: [3, H, W] over some training frames.
        identities: what tells each data set from others.
    """

    def __init__(
        self, inputs: FrameInputs, config: LightWAMConfig, device: torch.device, held_out: float, seed: int
    ) -> None:
        self.device = device
        starts, held_out_rows, clips, located, start = [], [], [], [], 0
        self._places: list[tuple[FrameCache, Episode]] = []
        self.identities: list[str] = []
        for dataset in open_datasets(inputs.data, config, inputs):
            cache = FrameCache(dataset, config.cameras, inputs.cache)
            cache.build()
            self._places += [(cache, episode) for episode in dataset.episodes]
            starts += [start + episode.start for episode in dataset.episodes]
            held_out_rows.append(start + rows_of(split_episodes(dataset, held_out, seed)[1]))
            clips.append(start + build_windows(dataset, config).frame_rows_NF)
            located.append(located_objects(dataset))
            self.identities.append(dataset_identity(dataset, config.cameras))
            start += len(dataset.state)
        _check_located(inputs.data, located)
        self._starts = np.array(starts)
        self.held_out = np.concatenate(held_out_rows)
        self.training = np.setdiff1d(np.arange(start), self.held_out)
        self.clip_rows = np.concatenate(clips)
        located_NP = np.concatenate(located)
        self.located_mean, self.located_std = located_NP.mean(0), located_NP.std(0) + 1e-6
        self.located = ((located_NP - self.located_mean) / self.located_std).astype(np.float32)
        sample = np.random.default_rng(seed).choice(self.training, min(1000, len(self.training)), replace=False)
        self.mean_image = self._mean_image(np.sort(sample))

    def _mean_image(self, rows: Rows) -> Tensor:
        parts = [self._video(self._frames(rows[i : i + 32])).sum(0) for i in range(0, len(rows), 32)]
        return torch.stack(parts).sum(0) / len(rows)

    def _frames(self, rows: Rows) -> npt.NDArray[np.uint8]:
        """uint8 [*rows, H, W, 3]: each episode's file is opened for its rows, and closed again."""
        flat = rows.reshape(-1)
        place = np.searchsorted(self._starts, flat, side="right") - 1
        frames: npt.NDArray[np.uint8] | None = None
        for number in np.unique(place):
            chosen = np.flatnonzero(place == number)
            cache, episode = self._places[number]
            found = cache.load(episode)[flat[chosen] - self._starts[number]]
            frames = np.empty((len(flat), *found.shape[1:]), np.uint8) if frames is None else frames
            frames[chosen] = found
        assert frames is not None
        return frames.reshape(*rows.shape, *frames.shape[1:])

    def _video(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [..., H, W, 3] -> [-1, 1] float [..., 3, H, W], on the device."""
        return scale_pixels(
            to_device(torch.from_numpy(np.moveaxis(frames, -1, -3).copy()), self.device).float() / 255.0
        )

    def _located(self, rows: Rows) -> Tensor:
        return to_device(torch.from_numpy(self.located[rows]), self.device)

    def images(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """(clips of one frame [N, 3, 1, H, W], object positions [N, 2 K])."""
        return self._video(self._frames(rows)).unsqueeze(2), self._located(rows)

    def clips(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """(clips [N, 3, F, H, W] that start at these rows, object positions in their first frame)."""
        return self._video(self._frames(self.clip_rows[rows])).transpose(1, 2), self._located(rows)


def _check_located(folders: Sequence[Path], located: Sequence[npt.NDArray[np.float32]]) -> None:
    """Raise `DataError` where only some data sets note the places of objects."""
    widths = [values.shape[1] for values in located]
    if len(set(widths)) > 1:
        told = ", ".join(f"{folder} notes {width // 2}" for folder, width in zip(folders, widths, strict=True))
        raise DataError(f"data sets note different numbers of located objects ({told}): train with them one by one")


def located_objects(dataset: Dataset) -> npt.NDArray[np.float32]:
    """Positions (metres) of the objects that the recorder noted, [rows, 2 K]; K is 0 where it noted none."""
    known = [dataset.columns[key] for key in LOCATED if key in dataset.columns]
    return np.concatenate([np.zeros((len(dataset.state), 0), np.float32), *known], axis=1)
