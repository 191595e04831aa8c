# SPDX-License-Identifier: Apache-2.0
"""What a policy is trained on: data sets, their statistics, and samples with latents from a cache or a VAE.

Legend: N rows, C h w latent, T latents of a window, H horizon, A action, P state, K located coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.data.augment import Augmentation
from lightwam.data.check import check_datasets, refuse
from lightwam.data.dataset import Dataset
from lightwam.data.latent_store import LatentOptions, LatentStore
from lightwam.data.mixture import check_shares
from lightwam.data.normalize import read_statistics
from lightwam.data.published_caches import PublishedLatents, PublishedTexts
from lightwam.data.resample import Resampling
from lightwam.data.samples import DecodedFrames, SampleOptions, Samples
from lightwam.data.sources import open_datasets
from lightwam.data.windows import WindowIndex, measure_statistics, published_split, rows_of
from lightwam.errors import ConfigError, DataError
from lightwam.model.vae import WanVAE
from lightwam.train.precompute import precompute, vae_encoder, vae_fingerprint
from lightwam.train.recipe import Loading, Losses
from lightwam.train.vae_data import located_objects

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PolicyInputs:
    """What a run reads."""

    data: tuple[Path, ...]
    """Folders of data sets: LeRobot, real-robot HDF5, RoboTwin."""
    vae: Path | None = None
    """Checkpoint folder of the VAE (`lightwam train vae` or `convert`); its VAE configuration replaces the policy's.
    Not necessary with `--latents`."""
    cache: Path | None = None
    """Folder of decoded frames and latents; a run adds what is missing. Without it, and without `--latents`, frames are
    decoded and encoded at every step."""
    latents: tuple[Path, ...] = ()
    """Latent caches of the published precompute, one for each data set."""
    texts: Path | None = None
    """Text cache of the published precompute; required for policies with the umT5 encoder."""
    statistics: Path | None = None
    """Statistics to normalise with (ours or published); None: those of the run or of `--init`, else measured."""
    init: Path | None = None
    """Checkpoint folder to start from (its statistics too): released weights, or a policy of other data or cameras."""
    resample: Resampling = "refuse"
    """What is done about a data set of another rate than the robot's control_hz: refuse it, leave rows out, or
    interpolate."""
    check: bool = True
    """Look for what usually goes wrong in the data, as `lightwam data check --quick`, and refuse errors."""
    random_backbone: bool = False
    """Start a frozen backbone at random, for trials without released weights."""


class WindowLatents(Protocol):
    """Where samples get their latents."""

    def latents(self, sample: int, epoch: int = 0) -> Tensor:
        """[C, T, h, w], as an epoch uses them."""
        ...

    def first(self, sample: int, epoch: int = 0) -> Tensor:
        """[C, h, w], of the sample's own frame."""
        ...


@dataclass(frozen=True)
class Part:
    """The samples of one data set, training or held out.

    `future` are the numbers of those whose window has latents; all samples have the latent of their own frame.
    """

    samples: Samples
    store: WindowLatents | None
    future: Rows
    located_NK: npt.NDArray[np.float32]


class PolicySamples:
    """Samples as training takes them, numbered through all parts: `samples[number, epoch]`.

    Args:
        parts: which samples.
        windows: with the latents of the whole window; false: of the first frame alone.
        located: mean and deviation of the located coordinates; K is 0 without them.
    """

    def __init__(
        self, parts: Sequence[Part], windows: bool, located: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
    ) -> None:
        self.parts, self.windows, self.located = list(parts), windows, located
        self.numbers = [part.future if windows else np.arange(len(part.samples)) for part in parts]
        self._ends = np.cumsum(self.lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Samples of each part."""
        return tuple(len(numbers) for numbers in self.numbers)

    def __len__(self) -> int:
        return sum(self.lengths)

    def inside(self) -> Rows:
        """Those whose frames lie inside their episode; all, where there is none."""
        padded = []
        for part, numbers in zip(self.parts, self.numbers, strict=True):
            index = part.samples.index
            padded.append(index.windows(index.rows[numbers]).image_is_pad_NF)
        places = np.flatnonzero(~np.concatenate(padded).any(axis=1))
        return places if len(places) else np.arange(len(self))

    def __getitem__(self, wanted: tuple[int, int]) -> dict[str, Any]:
        place, epoch = wanted
        which = int(np.searchsorted(self._ends, place, "right"))
        part = self.parts[which]
        number = int(self.numbers[which][place - (self._ends[which] - len(self.numbers[which]))])
        made = part.samples[number, epoch]
        kept = {name: made[name] for name in ("action", "action_is_pad", "image_is_pad")}
        kept["proprio"] = made["proprio"][0]
        if part.store is None:
            kept["video"] = made["video"] if self.windows else made["video"][:, :1]
        elif self.windows:
            kept["video_latents"] = part.store.latents(number, epoch).float()
        else:
            kept["video_latents"] = part.store.first(number, epoch)[:, None].float()
        if part.samples.texts is not None:
            kept["context"], kept["context_mask"] = made["context"].float(), made["context_mask"]
        else:
            kept["instruction"] = part.samples.episode(number).task
        mean, deviation = self.located
        if len(mean):
            row = part.located_NK[part.samples.index.rows[number]]
            kept["located"] = torch.from_numpy((row - mean) / deviation)
        return kept


class PolicyData:
    """Data sets of a run, normalised by `statistics`.

    Attributes:
        training, held_out: a part for each data set; `held_out` is empty where nothing is.
        statistics: the content of the statistics file, with the `instructions` that the text encoder saw.
        located: mean and deviation [K] of the located coordinates; K is 0 where a data set has none.
    """

    def __init__(
        self,
        inputs: PolicyInputs,
        config: LightWAMConfig,
        loading: Loading,
        losses: Losses,
        vae: WanVAE | None,
        earlier: Mapping[str, Any] | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Opens the data sets and encodes what a cache lacks. Raises `DataError`, `ConfigError`.

        Args:
            vae: encodes; None with latent caches.
            earlier: statistics of the run that is resumed, or of its start.
            augmentation, seed: of the training samples.
            part: (which, of how many) processes that fill the cache together this is.
        """
        check_inputs(inputs, config, loading, augmentation)
        self.inputs, self.config, self.loading, self.vae = inputs, config, loading, vae
        self._augmentation = None if augmentation is None or augmentation.changes_nothing else augmentation
        self._seed = seed
        self.datasets = open_datasets(inputs.data, config, loading, inputs.resample, loading.sample_stride)
        self.tasks = tuple(dict.fromkeys(e.task for dataset in self.datasets for e in dataset.episodes))
        self.statistics = self._statistics(earlier)
        if inputs.check:
            refuse(check_datasets(self.datasets, config, self.statistics))
        self.texts = None if inputs.texts is None else PublishedTexts(inputs.texts, config.text)
        located = [located_coordinates(dataset) for dataset in self.datasets] if losses.localisation_weight else []
        if len({values.shape[1] for values in located}) != 1:
            located = []
        self._located = located
        joined = np.concatenate(located) if located else np.zeros((1, 0), np.float32)
        self.located = joined.mean(0), (joined.std(0) + 1e-6).astype(np.float32)
        self.training: list[Part] = []
        self.held_out: list[Part] = []
        for place in range(len(self.datasets)):
            self._add(place)
        stores = [one.store for one in (*self.training, *self.held_out) if isinstance(one.store, LatentStore)]
        if stores and vae is not None:
            precompute(stores, vae_encoder(vae), part)

    def samples(self, parts: Sequence[Part], windows: bool) -> PolicySamples:
        """All samples of the parts, with the latents of whole windows or of first frames."""
        return PolicySamples(parts, windows, self.located)

    def _statistics(self, earlier: Mapping[str, Any] | None) -> Mapping[str, Any]:
        given = read_statistics(self.inputs.statistics) if self.inputs.statistics is not None else earlier
        statistics = given or measure_statistics(self.datasets, self.config)
        seen = [] if given is None else given.get("instructions")
        if seen is None and self.inputs.statistics is None:
            return statistics  # of an earlier run that noted none: what its encoder saw is not known
        return {**statistics, "instructions": sorted({*(seen or []), *self.tasks})}

    def _add(self, place: int) -> None:
        dataset = self.datasets[place]
        training, held_out = published_split(dataset, self.loading.held_out)
        if not training:
            raise DataError(
                f"data set {dataset.root} has {len(dataset.episodes)} episode(s), none is left to train on with "
                f"--held-out {self.loading.held_out}: use less, or 0"
            )
        for chosen, parts in ((training, self.training), (held_out, self.held_out)):
            if chosen:
                parts.append(self._part(place, chosen, held_out=parts is self.held_out))

    def _part(self, place: int, chosen: list[int], held_out: bool) -> Part:
        dataset, loading, cached = self.datasets[place], self.loading, self.inputs.cache is not None
        taken = dataset if chosen == list(range(len(dataset.episodes))) else dataset.take(chosen)
        augmentation = None if held_out else self._augmentation
        options = SampleOptions(sample_stride=loading.sample_stride, augmentation=augmentation, seed=self._seed)
        frames = None if self.inputs.latents or cached else DecodedFrames(taken, self.config, keep=4)
        samples = Samples(taken, self.config, self.statistics, options, frames=frames, texts=self.texts)
        starts = np.array([episode.start for episode in taken.episodes])
        owner = np.searchsorted(starts, samples.index.rows, "right") - 1
        in_episode = np.arange(len(samples)) - np.searchsorted(samples.index.rows, starts)[owner]
        future = np.flatnonzero(in_episode % loading.future_stride == 0)
        store: WindowLatents | None = None
        if self.inputs.latents:
            store = published_latents(self.inputs.latents[place], dataset, chosen, samples, held_out)
        elif self.inputs.cache is not None:
            assert self.vae is not None
            store = LatentStore(
                taken, self.config, self.inputs.cache, vae_fingerprint(self.vae),
                LatentOptions(
                    sample_stride=loading.sample_stride, future_stride=loading.future_stride, seed=self._seed,
                    augmentation=augmentation, variants=1 if augmentation is None else loading.variants,
                ),
            )  # fmt: skip
        located = np.zeros((len(dataset.state), 0), np.float32)
        if self._located:
            located = self._located[place][rows_of([dataset.episodes[i] for i in chosen])]
        return Part(samples, store, future, located)


def check_inputs(
    inputs: PolicyInputs, config: LightWAMConfig, loading: Loading, augmentation: Augmentation | None = None
) -> None:
    """Raise `ConfigError` for inputs that contradict each other or the configuration; reads nothing."""
    if inputs.latents and len(inputs.latents) != len(inputs.data):
        raise ConfigError(f"--latents has {len(inputs.latents)} folders for {len(inputs.data)} data sets: give as many")
    if loading.shares:
        check_shares(loading.shares, len(inputs.data))
    loading.numbers(len(inputs.data))
    if inputs.latents and not loading.is_all:
        raise ConfigError(
            "--latents holds the samples of whole data sets, by number: leave --episodes, --tasks and --max-episodes "
            "out, or give --vae and --cache instead"
        )
    if augmentation is not None and not augmentation.changes_nothing:
        if inputs.latents:
            raise ConfigError("augmentation needs frames, and --latents holds none: give --vae and --cache instead")
        if inputs.cache is not None and loading.variants < 2:
            raise ConfigError(f"--variants is {loading.variants} with an augmentation: use at least 2")
    if not inputs.latents and inputs.vae is None:
        raise ConfigError("neither --vae nor --latents is given: name the VAE's checkpoint folder, or latent caches")
    if config.text.kind == "umt5" and inputs.texts is None:
        raise ConfigError(
            f"text.kind of {config.name} is 'umt5': give --texts, the folder of its precomputed text cache, or a "
            "configuration with the small text encoder ('hashed_words', as nano has it)"
        )


def located_coordinates(dataset: Dataset) -> npt.NDArray[np.float32]:
    """Objects' positions [rows, 2 K], and the first of them relative to the gripper (metres): [rows, 2 K + 2].

    What a grasp needs is the relative position, which the wrist camera shows best. K is 0 where nothing was noted.
    """
    absolute = located_objects(dataset)
    return np.concatenate([absolute, absolute[:, :2] - dataset.state[:, : absolute.shape[1]][:, :2]], axis=1)


@dataclass(frozen=True)
class _Renumbered:
    """Latents of a part of a data set, out of a published cache that numbers the samples otherwise."""

    cache: PublishedLatents
    numbers: Rows

    def latents(self, sample: int, epoch: int = 0) -> Tensor:
        return self.cache.latents(int(self.numbers[sample]))

    def first(self, sample: int, epoch: int = 0) -> Tensor:
        return self.latents(sample)[:, 0]


def published_latents(
    folder: Path, dataset: Dataset, chosen: list[int], samples: Samples, held_out: bool
) -> WindowLatents:
    """A published cache of these episodes (places in `dataset`): of them alone, or of the whole data set."""
    index, config = samples.index, samples.config
    whole = WindowIndex(dataset, config, index.sample_stride)
    try:
        if not held_out:
            return _Renumbered(PublishedLatents(folder, index, config), np.arange(len(samples)))
    except DataError:
        if len(whole.rows) == len(index.rows):
            raise
    try:
        cache = PublishedLatents(folder, whole, config)
    except DataError as error:
        if not held_out:
            raise
        raise DataError(
            f"{error}; it has no held-out samples: give one of the whole data set, or --held-out 0"
        ) from error
    rows = rows_of([dataset.episodes[i] for i in chosen])
    return _Renumbered(cache, np.searchsorted(whole.rows, rows[index.rows]))
