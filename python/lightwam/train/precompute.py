# SPDX-License-Identifier: Apache-2.0
"""Filling latent caches (`lightwam data precompute`, and `train policy` for what is missing): jobs for any number of
processes and machines, each of which may be killed at any time.

A job is a group of episodes whose frames lie together. Writer i of n begins with its n-th part of the jobs and then
helps with the others'; what is finished meanwhile is left out. Writers need nothing of each other but the folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from lightwam.data.images import scale_pixels
from lightwam.data.latent_store import Encode, LatentStore
from lightwam.errors import ConfigError
from lightwam.model.vae import WanVAE
from lightwam.progress import rate_bar
from lightwam.train.device import mixed_precision, to_device
from lightwam.train.vae_path import encode_moments

EncodePrecision = Literal["float32", "bfloat16"]
Job = tuple[int, tuple[int, ...]]
"""(which store, places of episodes)."""


def vae_fingerprint(vae: WanVAE, precision: EncodePrecision = "float32") -> str:
    """16 hex digits of a VAE's weights and latent statistics, and the precision that it computes in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    digest.update(repr((vae.config.latent_mean, vae.config.latent_std)).encode())
    return digest.hexdigest()[:16] + ("" if precision == "float32" else f"-{precision}")


def vae_encoder(vae: WanVAE, precision: EncodePrecision = "float32") -> Encode:
    """float [m, F, 3, H, W] in 0..1 -> normalised latents [m, C, T, h, w] on the CPU; `bfloat16`: matmuls in it."""
    device = next(vae.parameters()).device

    @torch.inference_mode()
    def encode(clips_mF3HW: Tensor) -> Tensor:
        pixels = scale_pixels(to_device(clips_mF3HW, device)).transpose(1, 2)
        if precision == "bfloat16":
            with mixed_precision(device):
                mean, _ = encode_moments(vae, pixels)
        else:
            mean, _ = encode_moments(vae, pixels)
        return vae.normalize(mean.float()).cpu()

    return encode


def precompute(
    stores: Sequence[LatentStore],
    encode: Encode,
    part: tuple[int, int] = (0, 1),
    batch: int = 16,
    show: bool = True,
) -> int:
    """Compute what the stores lack; returns the number of files written.

    Args:
        stores: of all data sets.
        encode: `vae_encoder`.
        part: (which, of how many) writers this is.
        batch: windows that are encoded at once.
        show: a bar with the rate.

    Raises:
        DataError: frames that cannot be read, latents that do not fit.
    """
    jobs = jobs_of(stores, part)
    total = rows_of(stores, jobs)
    if not total:
        return 0
    with rate_bar("encode latents", total, "rows", show=show) as advance:
        return sum(stores[i].build(encode, positions, batch, advance) for i, positions in jobs)


def jobs_of(stores: Sequence[LatentStore], part: tuple[int, int] = (0, 1)) -> list[Job]:
    """All that is missing, beginning with this writer's part. Raises `ConfigError`: there is no such part."""
    which, writers = part
    if not 0 <= which < writers:
        raise ConfigError(f"part is {which} of {writers}: use 0 to {writers - 1}" if writers > 0 else "no writers")
    jobs = [(i, tuple(job)) for i, store in enumerate(stores) for job in store.jobs()]
    cut = len(jobs) * which // writers
    return jobs[cut:] + jobs[:cut]


def rows_of(stores: Sequence[LatentStore], jobs: Sequence[Job]) -> int:
    """Rows that the jobs encode, each variant counted."""
    total = 0
    for i, store in enumerate(stores):
        chosen = {position for which, positions in jobs if which == i for position in positions}
        total += sum(len(store.samples_of(position)) for position, _ in store.missing() if position in chosen)
    return total


def part_of_environment() -> tuple[int, int]:
    """(rank, number of processes) as torchrun tells them; (0, 1) without it. Raises `ConfigError`: no numbers."""
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise ConfigError(f"RANK and WORLD_SIZE must be whole numbers, as torchrun sets them ({error})") from error


def repair(stores: Sequence[LatentStore], fill: Callable[[], int]) -> int:
    """Compare every file with its checksum; damaged ones are removed and computed again. Returns their number.

    Raises `DataError`: a file is missing.
    """
    damaged = [path for store in stores for path in store.verify()]
    for path in damaged:
        path.unlink()
    if damaged:
        fill()
    return len(damaged)
