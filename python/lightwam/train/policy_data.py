# SPDX-License-Identifier: Apache-2.0
"""Policy training batches: everything an update needs, in memory, out of one or more data sets and one VAE.

Legend: N rows, M rows with a future, B batch, C h w latent, T latents of a window, H horizon, A action, P state, K
located objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.data.caches import FrameCache, LatentCache
from lightwam.data.dataset import Dataset
from lightwam.data.images import scale_pixels
from lightwam.data.normalize import normalizers
from lightwam.data.sources import open_datasets
from lightwam.data.windows import build_windows, measure_statistics, rows_of, split_episodes
from lightwam.model.vae import WanVAE
from lightwam.train.device import mixed_precision, to_device
from lightwam.train.options import PolicyInputs
from lightwam.train.vae_data import located_objects
from lightwam.train.vae_path import encode_moments

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PolicyData:
    """All rows as tensors; latents are float16, everything else float32 and normalised.

    `training_entries` are the entries of the futures (0..M-1) whose rows are training rows.
    """

    first_NChw: Tensor
    future_MTChw: Tensor
    future_rows_M: Tensor
    state_NP: Tensor
    action_NHA: Tensor
    action_is_pad_NH: Tensor
    image_is_pad_NF: Tensor
    located_NK: Tensor
    located_std_K: Tensor
    task_N: Tensor
    tasks: tuple[str, ...]
    training_rows: npt.NDArray[np.int64]
    held_out_rows: npt.NDArray[np.int64]
    training_entries: npt.NDArray[np.int64]

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """The action pass of these rows: latents of one frame, actions, state, pads. No context."""
        return {
            "video_latents": self.first_NChw[rows].float().unsqueeze(2),
            "action": self.action_NHA[rows],
            "proprio": self.state_NP[rows],
            "action_is_pad": self.action_is_pad_NH[rows],
        }

    def video_batch(self, entries: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The video pass of these entries of `future_rows_M`, and their rows."""
        rows = self.future_rows_M[entries]
        first, future = self.first_NChw[rows].float().unsqueeze(1), self.future_MTChw[entries].float()
        batch = self.batch(rows)
        batch["video_latents"] = torch.cat([first, future], dim=1).transpose(1, 2)
        batch["image_is_pad"] = self.image_is_pad_NF[rows]
        return batch, rows


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


def load_policy_data(
    inputs: PolicyInputs,
    config: LightWAMConfig,
    vae: WanVAE,
    held_out: float,
    seed: int,
    statistics: Mapping[str, Any] | None = None,
) -> tuple[PolicyData, Mapping[str, Any]]:
    """Read data sets, fill the caches, and normalise with `statistics` (measured over all of them when None).

    The statistics that come back list the `instructions` of the data and of those statistics, so all that the text
    encoder will have seen; not where earlier statistics list none.

    Raises `DataError`.
    """
    datasets = open_datasets(inputs.data, config, inputs.max_episodes)
    seen = [] if statistics is None else statistics.get("instructions")
    statistics = statistics or measure_statistics(datasets, config)
    parts, start = [], 0
    for dataset in datasets:
        parts.append(_load_one(dataset, inputs, config, vae, held_out, seed, start))
        start += len(dataset.state)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    tasks = tuple(dict.fromkeys(episode.task for dataset in datasets for episode in dataset.episodes))
    if seen is not None:
        statistics = {**statistics, "instructions": sorted({*seen, *tasks})}
    task_names = [[e.task] * e.length for dataset in datasets for e in dataset.episodes]
    state, action = normalizers(config, statistics)
    joined["state_NP"], joined["action_NHA"] = state.forward(joined["state_NP"]), action.forward(joined["action_NHA"])
    located_NK = joined["located_NK"]
    deviation = located_NK.std(0) + 1e-6
    joined["located_NK"] = ((located_NK - located_NK.mean(0)) / deviation).astype(np.float32)
    training_rows, held_out_rows = joined.pop("training_rows"), joined.pop("held_out_rows")
    data = PolicyData(
        **{name: torch.from_numpy(array) for name, array in joined.items()},
        located_std_K=torch.from_numpy(deviation.astype(np.float32)),
        task_N=torch.tensor([tasks.index(name) for names in task_names for name in names]),
        tasks=tasks,
        training_rows=training_rows,
        held_out_rows=held_out_rows,
        training_entries=np.flatnonzero(np.isin(joined["future_rows_M"], training_rows)),
    )
    return data, statistics


def located_coordinates(dataset: Dataset) -> np.ndarray:
    """Objects' positions [rows, 2 K], and the first of them relative to the gripper (metres): [rows, 2 K + 2].

    What a grasp needs is the relative position, which the wrist camera shows best. K is 0 where nothing was noted.
    """
    absolute = located_objects(dataset)
    return np.concatenate([absolute, absolute[:, :2] - dataset.state[:, : absolute.shape[1]][:, :2]], axis=1)


def _load_one(
    dataset: Dataset, inputs: PolicyInputs, config: LightWAMConfig, vae: WanVAE, held_out: float, seed: int,
    first_row: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """One data set's arrays in robot units, named as in `PolicyData`; its row numbers counted from `first_row`."""
    windows = build_windows(dataset, config)
    frames = FrameCache(dataset, config.cameras, inputs.cache)
    latents = LatentCache(frames, inputs.cache, weights_fingerprint(vae), inputs.future_stride)
    encode_frames, encode_clips = encode_function(vae, 16)
    frames.build()
    latents.build_first(encode_frames)
    latents.build_future(encode_clips, windows.frame_rows_NF)
    training, kept_out = split_episodes(dataset, held_out, seed)
    return {
        "first_NChw": latents.load_all("first"),
        "future_MTChw": latents.load_all("future"),
        "future_rows_M": first_row + latents.future_rows(),
        "state_NP": dataset.state,
        "action_NHA": windows.action_NHA,
        "action_is_pad_NH": windows.action_is_pad_NH,
        "image_is_pad_NF": windows.image_is_pad_NF,
        "located_NK": located_coordinates(dataset),
        "training_rows": first_row + rows_of(training),
        "held_out_rows": first_row + rows_of(kept_out),
    }
