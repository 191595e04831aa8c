# SPDX-License-Identifier: Apache-2.0
"""Latents of a data set in our own cache: encoded once by a VAE, then read from disk sample by sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.data.caches import FrameCache, LatentCache
from lightwam.data.dataset import Array, Dataset
from lightwam.data.images import scale_pixels
from lightwam.data.windows import WindowIndex, build_windows
from lightwam.errors import DataError
from lightwam.model.vae import WanVAE
from lightwam.train.device import mixed_precision, to_device
from lightwam.train.vae_path import encode_moments

Frames = npt.NDArray[np.uint8]


class EpisodeLatents:
    """Latents of samples out of a `LatentCache`, whose files stay on disk."""

    def __init__(self, cache: LatentCache, index: WindowIndex) -> None:
        self.cache, self.index = cache, index
        self._starts = np.array([episode.start for episode in index.dataset.episodes])
        self._open: dict[tuple[str, int], Array] = {}

    def first(self, sample: int) -> Tensor:
        """[C, h, w] of the sample's own frame."""
        episode, offset = self._place(sample)
        return torch.from_numpy(self._array("first", episode)[offset].copy())

    def latents(self, sample: int) -> Tensor:
        """[C, T, h, w]. Raises `DataError` for a row whose future is not encoded."""
        (episode, offset), stride = self._place(sample), self.cache.future_stride
        if offset % stride:
            raise DataError(f"sample {sample} has no future latents: only every {stride}th row has them")
        future = torch.from_numpy(self._array("future", episode)[offset // stride].copy())
        return torch.cat([self.first(sample)[None], future]).transpose(0, 1)

    def _place(self, sample: int) -> tuple[int, int]:
        row = int(self.index.rows[sample])
        episode = int(np.searchsorted(self._starts, row, "right")) - 1
        return episode, row - int(self._starts[episode])

    def _array(self, kind: str, episode: int) -> Array:
        if (kind, episode) not in self._open:
            path = self.cache.path(self.index.dataset.episodes[episode], kind)
            self._open[kind, episode] = np.load(path, mmap_mode="r")
        return self._open[kind, episode]


def fill_latents(
    dataset: Dataset, config: LightWAMConfig, folder: Path, vae: WanVAE, future_stride: int
) -> LatentCache:
    """The latent cache of a data set, with what was missing encoded."""
    frames = FrameCache(dataset, config.cameras, folder)
    cache = LatentCache(frames, folder, weights_fingerprint(vae), future_stride)
    encode_frames, encode_clips = encode_function(vae, 16)
    frames.build()
    cache.build_first(encode_frames)
    cache.build_future(encode_clips, build_windows(dataset, config).frame_rows_NF)
    return cache


def encode_function(vae: WanVAE, batch: int) -> tuple[Callable[[Frames], np.ndarray], Callable[[Frames], np.ndarray]]:
    """(frames [n, H, W, 3] -> [n, C, h, w], clips [m, F, H, W, 3] -> [m, T-1, C, h, w]), normalised latents."""

    device = next(vae.parameters()).device

    @torch.inference_mode()
    def encode(clips_nFHW3: Frames) -> Tensor:
        latents = []
        for start in range(0, len(clips_nFHW3), batch):
            clips_u8 = torch.from_numpy(clips_nFHW3[start : start + batch].copy())
            pixels = to_device(clips_u8, device).float() / 255.0
            mean, _ = encode_moments(vae, scale_pixels(pixels.permute(0, 4, 1, 2, 3)))
            latents.append(vae.normalize(mean))
        return torch.cat(latents)

    def frames(images: Frames) -> np.ndarray:
        return encode(images[:, None])[:, :, 0].cpu().numpy()

    def futures(clips: Frames) -> np.ndarray:
        # Futures are only predicted, never acted on: bfloat16 is exact enough, and twice as fast.
        with mixed_precision(device):
            return encode(clips)[:, :, 1:].transpose(1, 2).float().cpu().numpy()

    return frames, futures


def weights_fingerprint(vae: WanVAE) -> str:
    """8 hex digits of a VAE's weights and latent statistics."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    digest.update(repr((vae.config.latent_mean, vae.config.latent_std)).encode())
    return digest.hexdigest()[:8]
