# SPDX-License-Identifier: Apache-2.0
"""Batches of the VAE's training: frames, short clips and the places of objects, out of one or more data sets.

Legend: N images, H x W canvas, F frames of a clip, K located objects.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.data.caches import FrameCache
from lightwam.data.dataset import Dataset
from lightwam.data.images import scale_pixels
from lightwam.data.sources import open_datasets
from lightwam.data.windows import build_windows, rows_of, split_episodes
from lightwam.train.device import to_device
from lightwam.train.options import FrameInputs

LOCATED = ("privileged.target_xy", "privileged.basket_xy")


class FrameSource:
    """All frames of some data sets in memory, with what is needed to draw batches of frames and clips on a device."""

    def __init__(
        self, inputs: FrameInputs, config: LightWAMConfig, device: torch.device, held_out: float, seed: int
    ) -> None:
        self.device = device
        frames, held_out_rows, clips, located, start = [], [], [], [], 0
        for dataset in open_datasets(inputs.data, config, inputs.max_episodes):
            cache = FrameCache(dataset, config.cameras, inputs.cache)
            cache.build()
            frames += [cache.load(episode) for episode in dataset.episodes]
            held_out_rows.append(start + rows_of(split_episodes(dataset, held_out, seed)[1]))
            clips.append(start + build_windows(dataset, config).frame_rows_NF)
            located.append(located_objects(dataset))
            start += len(dataset.state)
        self.frames: npt.NDArray[np.uint8] = np.concatenate(frames)
        self.held_out = np.concatenate(held_out_rows)
        self.training = np.setdiff1d(np.arange(start), self.held_out)
        self.clip_rows = np.concatenate(clips)
        located_NP = np.concatenate(located)
        self.located_mean, self.located_std = located_NP.mean(0), located_NP.std(0) + 1e-6
        self.located = ((located_NP - self.located_mean) / self.located_std).astype(np.float32)
        sample = np.random.default_rng(seed).choice(self.training, min(1000, len(self.training)), replace=False)
        self.mean_image = self._video(self.frames[np.sort(sample)]).mean(0)

    def _video(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [..., H, W, 3] -> [-1, 1] float [..., 3, H, W], on the device."""
        return scale_pixels(
            to_device(torch.from_numpy(np.moveaxis(frames, -1, -3).copy()), self.device).float() / 255.0
        )

    def _located(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return to_device(torch.from_numpy(self.located[rows]), self.device)

    def images(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(clips of one frame [N, 3, 1, H, W], object positions [N, 2 K])."""
        return self._video(self.frames[rows]).unsqueeze(2), self._located(rows)

    def clips(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(clips [N, 3, F, H, W] that start at these rows, object positions in their first frame)."""
        return self._video(self.frames[self.clip_rows[rows]]).transpose(1, 2), self._located(rows)


def located_objects(dataset: Dataset) -> npt.NDArray[np.float32]:
    """Positions (metres) of the objects that the recorder noted, [rows, 2 K]; K is 0 where it noted none."""
    known = [dataset.columns[key] for key in LOCATED if key in dataset.columns]
    return np.concatenate([np.zeros((len(dataset.state), 0), np.float32), *known], axis=1)
