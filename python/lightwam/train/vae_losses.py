# SPDX-License-Identifier: Apache-2.0
"""Losses and held-out figures of the VAE.

A robot's camera stands still, so most pixels never change: reconstruction weighs a pixel by how far it differs from the
data set's mean image, and a temporary head must find the task's objects in the latents, so that their position
survives compression.

Legend: N images, C latent channels, H x W canvas, F frames of a clip, K located objects.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.model.vae import WanVAE
from lightwam.train.options import VAELosses
from lightwam.train.vae_data import FrameSource
from lightwam.train.vae_path import decode_raw, encode_moments


class Localiser(nn.Module):
    """Temporary head: latents [N, C, h, w] -> xy of every located object (z-scored), [N, outputs]."""

    def __init__(self, channels: int, size: tuple[int, int], outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.GELU(), nn.Conv2d(32, 8, 1), nn.Flatten(),
            nn.Linear(8 * size[0] * size[1], outputs),
        )  # fmt: skip

    def forward(self, latents: Tensor) -> Tensor:
        located: Tensor = self.body(latents)
        return located


def vae_losses(
    vae: WanVAE, localiser: Localiser | None, video: Tensor, located: Tensor, mean_image: Tensor, weights: VAELosses,
    columns: slice | None, plain: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Weighted reconstruction (L1), KL and localisation of clips [N, 3, F, H, W]; decodes `columns` of the latent.

    plain: the clips before they were augmented, which tell the pixels that differ from the mean image.
    """
    mean, log_variance = encode_moments(vae, video)
    log_variance = log_variance.float().clamp(-20.0, 10.0)
    raw = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance).to(mean.dtype)
    target, plain, background = video, video if plain is None else plain, mean_image[:, None]
    if columns is not None:
        raw, cell = raw[..., columns], vae.config.spatial_factor
        pixels = slice(columns.start * cell, columns.stop * cell)
        target, plain, background = target[..., pixels], plain[..., pixels], background[..., pixels]
    decoded = decode_raw(vae, raw).float()
    difference = (plain - background).abs().mean(1, keepdim=True)
    pixel_weight = 1.0 + weights.foreground_weight * difference / (difference + 0.1)
    reconstruction = ((decoded - target).abs() * pixel_weight).mean() / pixel_weight.mean()
    mean = mean.float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    losses = {"reconstruction": reconstruction, "kl": kl}
    total = reconstruction + weights.kl_weight * kl
    if localiser is not None:
        losses["localisation"] = F.mse_loss(localiser(mean[:, :, 0]).float(), located)
        total = total + weights.localisation_weight * losses["localisation"]
    return {"loss": total, **losses}


@torch.no_grad()
def validate(vae: WanVAE, localiser: Localiser | None, source: FrameSource) -> dict[str, float]:
    """Held-out foreground PSNR (dB; pixels off the mean image by more than 0.1) and localisation error (cm).

    Nothing where no episode is held out.
    """
    if not len(source.held_out):
        return {}
    rows = source.held_out[:: max(1, len(source.held_out) // 64)]
    video, located = source.images(rows)
    mean, _ = encode_moments(vae, video)
    error = (decode_raw(vae, mean).clamp(-1, 1) - video).square().mean(1) / 4.0
    foreground = (video - source.mean_image[:, None]).abs().mean(1) > 0.1
    result = {"held_out/psnr_foreground_db": float(-10 * torch.log10(error[foreground].mean()))}
    if localiser is not None:
        off = (localiser(mean[:, :, 0]) - located) * torch.from_numpy(source.located_std).to(located)
        result["held_out/localisation_cm"] = float(100 * off.view(len(rows), -1, 2).norm(dim=-1).mean())
    return result
