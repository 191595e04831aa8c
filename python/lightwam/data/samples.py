# SPDX-License-Identifier: Apache-2.0
"""Training samples: one window as tensors, under the published loader's names.

Legend: H horizon, W states of a window, F frames, T latents, A action width, P state width, L text rows, E text width.

| key | shape | meaning |
|---|---|---|
| `action`, `action_is_pad` | [H, A], [H] | normalised; true past the episode's end |
| `proprio`, `proprio_is_pad` | [W-1, P], [W] | normalised states without the last one; flags of all |
| `video` | [3, F, H, W] | canvas in -1..1, without a latent cache |
| `video_latents` | [C, T, h, w] | from a latent cache |
| `image_is_pad` | [F] | true past the episode's end |
| `context`, `context_mask` | [L, E], [L] | from a text cache |
| `prompt`, `idx` | | the sentence; the sample's number |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.data.augment import Augmentation, augment, rectangles
from lightwam.data.caches import FrameCache
from lightwam.data.dataset import Dataset, Episode, Rows
from lightwam.data.frames import Images, read_frames
from lightwam.data.images import RESIZE_ONCE, CanvasRule, join_cameras, scale_pixels
from lightwam.data.normalize import normalizers
from lightwam.data.stepwise import stepwise_normalizer
from lightwam.data.windows import WindowIndex
from lightwam.errors import DataError


class Frames(Protocol):
    """Where samples get their frames."""

    def clip(self, episode: Episode, frames_F: Rows) -> Tensor:
        """Frames of an episode (0 is its first) as canvases, float32 [F, 3, H, W] in 0..1."""
        ...


class Latents(Protocol):
    """Where samples get their latents."""

    def latents(self, sample: int, epoch: int = 0) -> Tensor:
        """[C, T, h, w] of the sample of this number, as an epoch uses it."""
        ...


class Texts(Protocol):
    """Where samples get the rows of their prompt."""

    def context(self, prompt: str) -> tuple[Tensor, Tensor]:
        """([L, E], mask [L])."""
        ...


@dataclass(frozen=True)
class SampleOptions:
    """What the published recipes vary."""

    sample_stride: int = 1
    """Use every so many-th control step."""
    whole_windows: bool | None = None
    """Only windows inside their episode; None: as the published loader of the format does (HDF5: yes)."""
    zero_padded_deltas: bool = True
    stepwise_action: bool = False
    """Actions are normalised by the statistics of their own step in the window."""
    augmentation: Augmentation | None = None
    """Of frames, new in every epoch. A latent cache has its own."""
    seed: int = 0
    """Of the augmentation."""


class Samples:
    """The samples of a data set, numbered as the published loader numbers them: a map-style torch data set."""

    def __init__(
        self,
        dataset: Dataset,
        config: LightWAMConfig,
        statistics: Mapping[str, Any],
        options: SampleOptions = SampleOptions(),
        *,
        frames: Frames | None = None,
        latents: Latents | None = None,
        texts: Texts | None = None,
    ) -> None:
        """`frames`, `latents` and `texts` fill their keys; without one the key is left out. Raises `DataError`."""
        self.dataset, self.config = dataset, config
        self.index = WindowIndex(
            dataset, config, options.sample_stride, options.whole_windows, options.zero_padded_deltas
        )
        self.frames, self.latents, self.texts, self.options = frames, latents, texts, options
        self.state, self.action = normalizers(config, statistics)
        if options.stepwise_action:
            mode = config.robot.normalization
            self.action = stepwise_normalizer(statistics, "action", mode.action, config.horizon, config.action_dim)
        self._starts = [episode.start for episode in dataset.episodes]

    def __len__(self) -> int:
        return len(self.index.rows)

    def episode(self, sample: int) -> Episode:
        """The episode that a sample is of."""
        row = self.index.rows[sample]
        return self.dataset.episodes[int(np.searchsorted(self._starts, row, "right")) - 1]

    def __getitem__(self, wanted: int | tuple[int, int]) -> dict[str, Any]:
        """A sample; `samples[sample, epoch]` is what an epoch sees of it, if frames or latents are augmented."""
        sample, epoch = wanted if isinstance(wanted, tuple) else (wanted, 0)
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)}")
        episode, row = self.episode(sample), self.index.rows[[sample]]
        window, (states_1WP, state_is_pad) = self.index.windows(row), self.index.state_windows(row)
        prompt = self.prompt(episode)
        made: dict[str, Any] = {
            "action": torch.from_numpy(self.action.forward(window.action_NHA[0])),
            "action_is_pad": torch.from_numpy(window.action_is_pad_NH[0]),
            "proprio": torch.from_numpy(self.state.forward(states_1WP[0, :-1])),
            "proprio_is_pad": torch.from_numpy(state_is_pad[0]),
            "image_is_pad": torch.from_numpy(window.image_is_pad_NF[0]),
            "prompt": prompt,
            "idx": sample,
        }
        if self.frames is not None:
            clip = self.frames.clip(episode, window.frame_rows_NF[0] - episode.start)
            if (how := self.options.augmentation) is not None:
                places = rectangles(self.config.cameras, (clip.shape[-2], clip.shape[-1]))
                clip = augment(clip, places, how, self.options.seed, epoch, sample)
            made["video"] = scale_pixels(clip).transpose(0, 1)
        if self.latents is not None:
            made["video_latents"] = self.latents.latents(sample, epoch)
        if self.texts is not None:
            made["context"], made["context_mask"] = self.texts.context(prompt)
        return made

    def prompt(self, episode: Episode) -> str:
        """The sentence around an episode's task."""
        return self.config.text.prompt_template.format(task=english(episode.task))


def english(task: str) -> str:
    """The half of a task written 'chinese@english' that is used; other tasks as they are."""
    return task.split("@", 1)[1] if "@" in task else task


class DecodedFrames:
    """Canvases straight from the data set, exact (not rounded to uint8); the last `keep` episodes stay in memory.

    For looking at samples and for filling caches in order. Training draws rows in any order: use `CachedFrames`.
    """

    def __init__(self, dataset: Dataset, config: LightWAMConfig, rule: CanvasRule = RESIZE_ONCE, keep: int = 1) -> None:
        dataset.check(tuple(c.name for c in config.cameras.cameras), config.state_dim, config.action_dim)
        self.layout, self.rule, self.keep = config.cameras, rule, keep
        self._recent: dict[int, Tensor] = {}

    def clip(self, episode: Episode, frames_F: Rows) -> Tensor:
        """float32 [F, 3, H, W] in 0..1. Raises `DataError`."""
        if episode.start not in self._recent:
            names = [camera.name for camera in self.layout.cameras]
            images = {name: next(iter(read_frames([episode.videos[name]]))) for name in names}
            while len(self._recent) >= self.keep:
                del self._recent[next(iter(self._recent))]
            self._recent[episode.start] = join_cameras(images, self.layout, self.rule)
        return self._recent[episode.start][torch.from_numpy(frames_F)]


class CachedFrames:
    """Canvases from a frame cache that was built: uint8, half a grey level from the exact ones at most."""

    def __init__(self, cache: FrameCache) -> None:
        self.cache = cache
        self._mapped: dict[int, Images] = {}

    def clip(self, episode: Episode, frames_F: Rows) -> Tensor:
        """float32 [F, 3, H, W] in 0..1. Raises `DataError`: the cache was not built."""
        if episode.start not in self._mapped:
            if not self.cache.path(episode).exists():
                raise DataError(f"frame cache {self.cache.path(episode)} is missing: build the cache first")
            self._mapped[episode.start] = self.cache.load(episode)
        return torch.from_numpy(self._mapped[episode.start][frames_F]).permute(0, 3, 1, 2).float() / 255.0
