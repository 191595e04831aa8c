# SPDX-License-Identifier: Apache-2.0
"""The latent cache: the VAE's latents of every window of a data set, computed once.

A folder of one safetensors file an episode and variant. A file's name is a digest of everything that its latents depend
on (`LatentStore.key`): the content of the frames' files, the canvas, the VAE's weights, which frames make a window, and
the augmentation. Its header holds that description, so that a person can read it, and a checksum. Files appear whole:
several processes and machines may fill one folder, and a build that was killed goes on with what is missing.

Legend: n samples of an episode, m of them with a future, C latent channels, T latents of a window, h x w latent,
F frames, H x W canvas.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightwam.arithmetic import default_arithmetic
from lightwam.config import LightWAMConfig
from lightwam.data.augment import Augmentation, augment, rectangles, variant_of
from lightwam.data.caches import layout_fingerprint
from lightwam.data.dataset import Array, Dataset, Episode, FrameSpan, Rows
from lightwam.data.frames import Images, content_of, read_frames
from lightwam.data.images import RESIZE_ONCE, CanvasRule, join_cameras
from lightwam.data.windows import WindowIndex
from lightwam.errors import DataError
from lightwam.files import replacing_file

FORMAT = 1
_OPEN = 64
_JOB = 16  # episodes
_PREFIX, _ABOUT = "latents-", "lightwam"
Encode = Callable[[Tensor], Tensor]
"""float [m, F, 3, H, W] in 0..1 -> normalised latents [m, C, T, h, w]."""


@dataclass(frozen=True, kw_only=True)
class LatentOptions:
    """What a store holds of a data set."""

    sample_stride: int = 1
    whole_windows: bool | None = None
    """As of `SampleOptions`."""
    future_stride: int = 1
    """Only every so many-th sample of an episode has its whole window; others have the latent of their own frame."""
    rule: CanvasRule = RESIZE_ONCE
    augmentation: Augmentation | None = None
    variants: int = 1
    """Variant 0 is plain, the others are augmented."""
    seed: int = 0
    """Of the augmentation."""

    def __post_init__(self) -> None:
        if self.future_stride < 1 or self.variants < 1:
            raise DataError(f"future_stride {self.future_stride}, variants {self.variants}: use at least 1")
        if self.variants > 1 and (self.augmentation is None or self.augmentation.changes_nothing):
            raise DataError(f"variants is {self.variants} without an augmentation: they would be alike; use 1")


class LatentStore:
    """Latents of a data set's samples in a folder; `lightwam.data.samples.Latents`."""

    def __init__(
        self, dataset: Dataset, config: LightWAMConfig, folder: Path, vae: str, options: LatentOptions = LatentOptions()
    ) -> None:
        """`vae`: fingerprint of the VAE's weights. Raises `DataError`: a camera or a window does not fit."""
        dataset.check(tuple(c.name for c in config.cameras.cameras), config.state_dim, config.action_dim)
        self.dataset, self.config, self.folder, self.options, self.vae = dataset, config, folder, options, vae
        self.index = WindowIndex(dataset, config, options.sample_stride, options.whole_windows)
        starts = [episode.start for episode in dataset.episodes]
        self._first_sample = np.searchsorted(self.index.rows, [*starts, len(dataset.state)])
        latents = 1 + (config.video.num_frames - 1) // config.vae.temporal_factor
        height, width = options.rule.cover or (config.cameras.height, config.cameras.width)
        factor = config.vae.spatial_factor
        self.shape = (config.vae.z_dim, latents, height // factor, width // factor)
        self._places = rectangles(config.cameras, (height, width))
        self._names: dict[tuple[int, int], str] = {}
        self._open: OrderedDict[Path, Any] = OrderedDict()

    # -- what is there ----------------------------------------------------------------------------------------------

    def key(self, position: int, variant: int) -> dict[str, Any]:
        """Everything that the latents of an episode (its place in the data set) depend on."""
        episode, options = self.dataset.episodes[position], self.options
        frames = {c.name: content_of(episode.videos[c.name]) for c in self.config.cameras.cameras}
        rows = self.samples_of(position) - episode.start
        made: dict[str, Any] = {
            "format": FORMAT,
            "frames": {name: hashlib.sha256(content).hexdigest()[:16] for name, content in frames.items()},
            "canvas": layout_fingerprint(self.config.cameras, options.rule),
            "vae": self.vae,
            "window": [self.config.video.num_frames, self.config.video.stride, options.sample_stride],
            "rows": [episode.length, len(rows), hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16]],
            "future_stride": options.future_stride,
        }
        if variant:
            assert options.augmentation is not None
            made |= {"augmentation": asdict(options.augmentation), "seed": options.seed, "variant": variant}
        return made

    def path(self, position: int, variant: int = 0) -> Path:
        """The file of an episode and variant. Raises `DataError`: a file of frames is missing."""
        if (position, variant) not in self._names:
            text = json.dumps(self.key(position, variant), sort_keys=True)
            self._names[position, variant] = hashlib.sha256(text.encode()).hexdigest()[:32]
        return self.folder / f"{_PREFIX}{self._names[position, variant]}.safetensors"

    def missing(self) -> list[tuple[int, int]]:
        """(place of the episode, variant) of what is not there, in the order of the frames' files."""
        camera = self.config.cameras.cameras[0].name
        spans = [episode.videos[camera] for episode in self.dataset.episodes]
        order = sorted(range(len(spans)), key=lambda i: (str(spans[i].path), spans[i].first))
        return [(i, variant) for i in order for variant in self._missing_variants(i)]

    def explain(self) -> str:
        """Why files of the folder do not fit, by the fields that differ; empty where it holds none."""
        for path in sorted(self.folder.glob(f"{_PREFIX}*.safetensors")):
            held = _about(path).get("key", {})
            wanted = self.key(0, 0)
            names = [name for name in wanted if name not in ("frames", "rows") and held.get(name) != wanted[name]]
            if held and names:
                told = "; ".join(f"{name} {held.get(name)} instead of {wanted[name]}" for name in names)
                return f"{self.folder} holds latents of another {told}"
        return ""

    # -- building ---------------------------------------------------------------------------------------------------

    def jobs(self) -> list[list[int]]:
        """What is missing as groups of episodes (their places) that are read together, in the order of their files."""
        camera = self.config.cameras.cameras[0].name
        places = list(dict.fromkeys(position for position, _ in self.missing()))
        groups = itertools.groupby(places, key=lambda i: self.dataset.episodes[i].videos[camera].path)
        files = [list(group) for _, group in groups]
        if all(len(group) == 1 for group in files):  # a file an episode
            files = [places]
        return [group[i : i + _JOB] for group in files for i in range(0, len(group), _JOB)]

    @default_arithmetic
    def build(
        self,
        encode: Encode,
        positions: Sequence[int] | None = None,
        batch: int = 16,
        advance: Callable[[int], None] = lambda rows: None,
    ) -> int:
        """Compute what is missing; returns the number of files written. Frames are decoded once, in order.

        Args:
            encode: the VAE.
            positions: of these episodes; None: of all. What another writer finished meanwhile is left out.
            batch: windows that are encoded at once.
            advance: is told of rows that are done.

        Raises:
            DataError: frames that cannot be read; latents that are not finite or of another shape.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        order = positions if positions is not None else [position for job in self.jobs() for position in job]
        waiting = ((position, left) for position in order if (left := self._missing_variants(position)))
        written = 0
        names = [camera.name for camera in self.config.cameras.cameras]
        work, *copies = itertools.tee(waiting, 1 + len(names))
        streams = [read_frames(self._spans(name, copy)) for name, copy in zip(names, copies, strict=True)]
        for (position, variants), *images in zip(work, *streams, strict=True):
            for variant in variants:
                tensors = self._encoded(position, variant, dict(zip(names, images, strict=True)), encode, batch)
                self._write(self.path(position, variant), tensors, self.key(position, variant))
                written += 1
                advance(len(tensors["first"]))
        return written

    def _missing_variants(self, position: int) -> list[int]:
        variants = range(self.options.variants if len(self.samples_of(position)) else 0)
        return [variant for variant in variants if not self.path(position, variant).exists()]

    def _spans(self, camera: str, work: Iterable[tuple[int, list[int]]]) -> Iterator[FrameSpan]:
        return (self.dataset.episodes[position].videos[camera] for position, _ in work)

    def _encoded(
        self, position: int, variant: int, images: Mapping[str, Images], encode: Encode, batch: int
    ) -> dict[str, Tensor]:
        """'first' [n, C, h, w] and 'future' [m, T - 1, C, h, w], float16."""
        episode, rows = self.dataset.episodes[position], self.samples_of(position)
        frames_nF = self.index.frame_rows(rows)[0] - episode.start
        key = self.key(position, 0)["frames"]
        with_future = np.arange(len(rows)) % self.options.future_stride == 0
        first = torch.empty(len(rows), *self.shape[:1], *self.shape[2:], dtype=torch.float16)
        future = []
        for whole in (True, False):
            chosen = np.flatnonzero(with_future == whole)
            for start in range(0, len(chosen), batch):
                samples = chosen[start : start + batch]
                wanted = frames_nF[samples] if whole else frames_nF[samples, :1]
                clips = self._clips(images, wanted)
                if variant:
                    how, seed = self.options.augmentation, self.options.seed
                    assert how is not None
                    for i, sample in enumerate(samples):
                        row = int(rows[sample]) - episode.start
                        clips[i] = augment(clips[i], self._places, how, seed, key, row, variant)
                latents = self._checked(encode(clips), len(samples), self.shape[1] if whole else 1, episode)
                first[samples] = latents[:, :, 0]
                if whole:
                    future.append(latents[:, :, 1:].transpose(1, 2))
        return {"first": first, "future": torch.cat(future).contiguous()}

    def _clips(self, images: Mapping[str, Images], frames_mF: Rows) -> Tensor:
        """float [m, F, 3, H, W] in 0..1: each frame is resized once."""
        used, places = np.unique(frames_mF, return_inverse=True)
        canvas = join_cameras({n: image[used] for n, image in images.items()}, self.config.cameras, self.options.rule)
        return canvas[torch.from_numpy(places.reshape(frames_mF.shape))]

    def _checked(self, latents: Tensor, count: int, frames: int, episode: Episode) -> Tensor:
        wanted = (count, self.shape[0], frames, *self.shape[2:])
        if tuple(latents.shape) != wanted:
            raise DataError(
                f"the VAE makes latents {list(latents.shape)}, the configuration has {list(wanted)}: give its own VAE"
            )
        half = latents.detach().cpu().to(torch.float16)
        if not torch.isfinite(half).all():
            raise DataError(
                f"the VAE's latents of episode {episode.index} are not finite, or beyond 65504: check its weights"
            )
        return half

    def _write(self, path: Path, tensors: Mapping[str, Tensor], key: Mapping[str, Any]) -> None:
        from safetensors.torch import save_file

        about = json.dumps({"key": key, "sha256": _checksum(tensors)}, sort_keys=True)
        with replacing_file(path) as building:
            save_file(dict(tensors), building, metadata={_ABOUT: about})

    # -- reading ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.index.rows)

    def latents(self, sample: int, epoch: int = 0) -> Tensor:
        """[C, T, h, w] float16 of a sample; [C, 1, h, w] where it has no future. Raises `DataError`: it is missing."""
        file, place = self._place(sample, epoch)
        first: Tensor = file.get_slice("first")[place].unsqueeze(1)
        if place % self.options.future_stride:
            return first
        future = file.get_slice("future")[place // self.options.future_stride]
        return torch.cat([first, future.transpose(0, 1)], dim=1)

    def first(self, sample: int, epoch: int = 0) -> Tensor:
        """[C, h, w] float16 of a sample's own frame."""
        file, place = self._place(sample, epoch)
        found: Tensor = file.get_slice("first")[place]
        return found

    def variant(self, sample: int, epoch: int) -> int:
        """Which variant of a sample an epoch uses."""
        return variant_of(self.options.seed, sample, epoch, self.options.variants)

    def verify(self) -> list[Path]:
        """Files whose content is not what was written. Raises `DataError`: one is missing."""
        from safetensors.torch import load_file

        damaged = []
        for position in range(len(self.dataset.episodes)):
            for variant in range(self.options.variants if len(self.samples_of(position)) else 0):
                path = self.path(position, variant)
                try:
                    told, found = _about(path).get("sha256"), _checksum(load_file(path))
                except Exception as error:
                    if not path.exists():
                        raise DataError(self._missing(path)) from error
                    told, found = "", "unreadable"
                if told != found:
                    damaged.append(path)
        return damaged

    def _place(self, sample: int, epoch: int) -> tuple[Any, int]:
        position = int(np.searchsorted(self._first_sample, sample, "right")) - 1
        path = self.path(position, self.variant(sample, epoch))
        return self._file(path, position), sample - int(self._first_sample[position])

    def _file(self, path: Path, position: int) -> Any:
        """The open file; its header is read once. Files stay memory-mapped: no tensor is read but those wanted."""
        if path not in self._open:
            from safetensors import SafetensorError, safe_open

            try:
                file: Any = safe_open(path, framework="pt")
                shapes = [tuple(file.get_slice(name).get_shape()) for name in ("first", "future")]
            except FileNotFoundError as error:
                raise DataError(self._missing(path)) from error
            except (OSError, SafetensorError) as error:
                raise DataError(f"latent cache {path} is damaged ({error}): delete it and build again") from error
            count, (channels, frames, height, width) = len(self.samples_of(position)), self.shape
            wholes = -(-count // self.options.future_stride)
            if shapes != [(count, channels, height, width), (wholes, frames - 1, channels, height, width)]:
                raise DataError(f"latent cache {path} holds latents {shapes}: delete it and build again")
            while len(self._open) >= _OPEN:
                self._open.popitem(last=False)
            self._open[path] = file
        self._open.move_to_end(path)
        return self._open[path]

    def __getstate__(self) -> dict[str, Any]:
        """Open files do not travel to the workers of a data loader."""
        return {**self.__dict__, "_open": OrderedDict()}

    def _missing(self, path: Path) -> str:
        why = self.explain()
        return f"latent cache {path} is missing{f' ({why})' if why else ''}: run 'lightwam data precompute' first"

    def samples_of(self, position: int) -> Rows:
        """Rows at which the samples of an episode (its place in the data set) start."""
        return self.index.rows[self._first_sample[position] : self._first_sample[position + 1]]


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values: Array = tensors[name].contiguous().numpy()
        digest.update(name.encode())
        digest.update(repr((values.shape, str(values.dtype))).encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _about(path: Path) -> dict[str, Any]:
    """What the header of a file says: its key and its checksum; empty for what is no file of ours."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {}).get(_ABOUT, "{}"))
    except Exception:  # whatever lies in the folder
        return {}
    return found if isinstance(found, dict) else {}
