# SPDX-License-Identifier: Apache-2.0
"""The latent and text caches that the published precompute programs write, read with checks.

A latent cache is keyed by sample number, so it fits one data set, one split and one kind of window. The published
loader checks the number of HDF5 samples only; here everything is compared that the cache tells: the number of samples,
the episodes' lengths (episode_packed_v1), the recorded settings (meta.json), the shape of the latents. What a cache of
the same length and settings does not tell is another split or another data set of equal counts.

Legend: C latent channels, T latents of a window, h x w latent, L text rows, E text width.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightwam.config import LightWAMConfig, TextConfig
from lightwam.data.dataset import Array
from lightwam.data.windows import WindowIndex
from lightwam.errors import DataError
from lightwam.files import read_json

_OPEN_SHARDS = 64
_REMEDY = "precompute it again for this data set and split, or leave the cache out"


class PublishedLatents:
    """Latents of a data set's samples out of a published cache: single_file_v1, sharded_v1 or episode_packed_v1."""

    def __init__(self, folder: Path, index: WindowIndex, config: LightWAMConfig) -> None:
        """Raises `DataError`: the cache is missing, damaged, or of other samples than `index`'s."""
        self.folder, self._shards = folder, OrderedDict[Path, Mapping[str, Any]]()
        latents = 1 + (config.video.num_frames - 1) // config.vae.temporal_factor
        self.shape = (config.vae.z_dim, latents, *config.latent_size)
        self._places = _single_files(folder, index) if not (folder / "index.pt").exists() else _indexed(folder, index)
        _check_settings(folder, index, config)
        self.latents(0)
        self.latents(len(self._places) - 1)

    def __len__(self) -> int:
        return len(self._places)

    def latents(self, sample: int, epoch: int = 0) -> Tensor:
        """[C, T, h, w] of a sample, in the cache's type, the same in every epoch. Raises `DataError`."""
        path, offset = self._places[sample]
        shard = self._shard(path)
        stored = shard.get("video_latents")
        number = shard.get("sample_idx") if offset is None else _entry(shard.get("sample_indices"), offset)
        if number != sample:
            raise DataError(f"latent cache {path} holds sample {number} in place of {sample}: {_REMEDY}")
        found = stored if offset is None else _entry_of(stored, offset)
        if not isinstance(found, Tensor) or tuple(found.shape) != self.shape or not found.is_floating_point():
            have = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise DataError(
                f"latent cache {path} has latents {have}: the configuration has {list(self.shape)}; {_REMEDY}"
            )
        return found

    def _shard(self, path: Path) -> Mapping[str, Any]:
        if path not in self._shards:
            while len(self._shards) >= _OPEN_SHARDS:
                self._shards.popitem(last=False)
            self._shards[path] = load_published(path, mapped=True)
        self._shards.move_to_end(path)
        return self._shards[path]


_Places = list[tuple[Path, int | None]]


def _single_files(folder: Path, index: WindowIndex) -> _Places:
    """Sample numbers are the files' names."""
    count = sum(1 for path in folder.glob("*.pt") if path.stem.isdigit())
    if count == 0:
        raise DataError(f"latent cache {folder} has neither index.pt nor 00000000.pt: name the folder that holds them")
    _check_count(folder, count, index)
    places: _Places = [(folder / f"{sample:08d}.pt", None) for sample in range(count)]
    missing = [path.name for path, _ in places if not path.exists()]
    if missing:
        raise DataError(f"latent cache {folder} lacks {missing[:3]}: {_REMEDY}")
    return places


def _indexed(folder: Path, index: WindowIndex) -> _Places:
    table = load_published(folder / "index.pt")
    kind = table.get("storage_format")
    if kind not in ("sharded_v1", "episode_packed_v1"):
        raise DataError(f"latent cache {folder} is of the kind {kind!r}: sharded_v1 and episode_packed_v1 are read")
    shards, offsets = (_integers(folder, table.get(name)) for name in ("sample_to_shard", "sample_to_offset"))
    paths = table.get("shard_paths")
    if not isinstance(paths, list) or not all(isinstance(p, str) and _is_inside(p) for p in paths):
        raise DataError(f"latent cache {folder} is damaged: its index has no list of shards in it; {_REMEDY}")
    _check_count(folder, len(shards), index)
    missing = np.flatnonzero((shards < 0) | (offsets < 0))
    if len(missing) or len(offsets) != len(shards) or shards.max() >= len(paths):
        raise DataError(f"latent cache {folder} lacks samples {missing[:5].tolist()} or is damaged: {_REMEDY}")
    if kind == "episode_packed_v1":
        _check_episodes(folder, shards, index)
    files = [folder / path for path in paths]
    return [(files[shard], offset) for shard, offset in zip(shards.tolist(), offsets.tolist(), strict=True)]


def _is_inside(path: str) -> bool:
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _check_count(folder: Path, count: int, index: WindowIndex) -> None:
    if count != len(index.rows):
        raise DataError(
            f"latent cache {folder} holds {count} samples, data set {index.dataset.root} has {len(index.rows)} in this "
            f"split: {_REMEDY}"
        )


def _check_episodes(folder: Path, shards: Array, index: WindowIndex) -> None:
    """Each shard of episode_packed_v1 holds one episode."""
    starts = [episode.start for episode in index.dataset.episodes]
    owner = np.searchsorted(starts, index.rows, "right")
    changes = np.flatnonzero(np.diff(owner)), np.flatnonzero(np.diff(shards))
    if not np.array_equal(*changes):
        lengths = [np.diff([-1, *change, len(shards) - 1])[:5].tolist() for change in changes]
        raise DataError(
            f"latent cache {folder} holds episodes of {lengths[1]}.. samples, data set {index.dataset.root} has "
            f"{lengths[0]}..: it is of another split; {_REMEDY}"
        )


def _check_settings(folder: Path, index: WindowIndex, config: LightWAMConfig) -> None:
    """Compare what meta.json records of the windows; the published code writes it and never reads it."""
    if not (folder / "meta.json").exists():
        return
    meta = read_json(folder / "meta.json", "latent cache file", DataError, _REMEDY)
    recorded = meta.get("data_train")
    if not isinstance(recorded, dict):
        return
    wanted = {
        "num_frames": config.video.window,
        "global_sample_stride": index.sample_stride,
        "action_video_freq_ratio": config.video.stride,
        "video_size": [config.cameras.height, config.cameras.width],
    }
    for name, value in wanted.items():
        if name in recorded and recorded[name] != value:
            raise DataError(
                f"latent cache {folder} was made with {name} {recorded[name]}, the configuration has {value}: {_REMEDY}"
            )


class PublishedTexts:
    """Rows of prompts out of a published text cache; rows past the text are zeroed, the mask is all true."""

    def __init__(self, folder: Path, text: TextConfig) -> None:
        self.folder, self.text = folder, text
        self._known: dict[str, Tensor] = {}

    def context(self, prompt: str) -> tuple[Tensor, Tensor]:
        """([L, E] in the cache's type, mask [L] all true: the zero rows are attended to). Raises `DataError`."""
        if prompt not in self._known:
            self._known[prompt] = self._read(prompt)
        return self._known[prompt], torch.ones(self.text.length, dtype=torch.bool)

    def path(self, prompt: str) -> Path:
        """The file of a prompt."""
        digest = hashlib.sha256(prompt.encode()).hexdigest()
        return self.folder / f"{digest}.t5_len{self.text.length}.wan21t2v13b.pt"

    def _read(self, prompt: str) -> Tensor:
        path = self.path(prompt)
        if not path.exists():
            raise DataError(
                f"text cache {self.folder} has no file of {prompt!r}: {path.name} is missing; encode it first"
            )
        content = load_published(path)
        rows, mask = content.get("context"), content.get("mask")
        wanted = (self.text.length, self.text.width)
        if not isinstance(rows, Tensor) or not rows.is_floating_point() or tuple(rows.shape) != wanted:
            have = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise DataError(f"text cache {path} has context {have}: it must be numbers {list(wanted)}")
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != wanted[:1]:
            raise DataError(f"text cache {path}: mask must be {wanted[0]} booleans; encode it again")
        if not torch.isfinite(rows[mask]).all():
            raise DataError(f"text cache {path} has NaN or infinity: encode it again")
        return rows.masked_fill(~mask[:, None], 0)


def load_published(path: Path, mapped: bool = False) -> Mapping[str, Any]:
    """The mapping of a `torch.save` file; nothing in it is run. `mapped` leaves tensors on disk until they are read.

    Raises `DataError`: missing, damaged, no mapping.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cache file {path} is missing or damaged ({reason}): {_REMEDY}") from error
    if not isinstance(content, Mapping):
        raise DataError(f"cache file {path} holds a {type(content).__name__}: it must hold a mapping; {_REMEDY}")
    return content


def _integers(folder: Path, value: object) -> Array:
    if not isinstance(value, (Tensor, list)) or len(value) == 0:
        raise DataError(f"latent cache {folder} is damaged: its index has no sample table; {_REMEDY}")
    return np.asarray(value, np.int64)


def _entry(values: object, offset: int) -> int | None:
    found = _entry_of(values, offset)
    return None if found is None else int(found)


def _entry_of(values: object, offset: int) -> Any:
    return values[offset] if isinstance(values, Tensor) and values.ndim and offset < len(values) else None
