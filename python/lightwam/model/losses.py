# SPDX-License-Identifier: Apache-2.0
"""The two training losses, with pad masks and temporal weights.

Shapes: B batch, C latent channels, T latent frames, F video frames, H action horizon, A action width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightwam.config import TemporalWeighting
from lightwam.errors import DataError


def latent_padding(image_is_pad_BF: Tensor, temporal_factor: int) -> Tensor:
    """Which later latents are padding: all frames of its group are. [B, 1 + 4k] booleans -> [B, k]."""
    frames = image_is_pad_BF.shape[1]
    if image_is_pad_BF.dtype != torch.bool or frames % temporal_factor != 1 % temporal_factor:
        raise DataError(
            f"image_is_pad is {image_is_pad_BF.dtype} {tuple(image_is_pad_BF.shape)}: give booleans [B, F] with "
            f"F = 1 + a multiple of {temporal_factor}"
        )
    return image_is_pad_BF[:, 1:].reshape(len(image_is_pad_BF), -1, temporal_factor).all(dim=-1)


def flow_loss(flow: Tensor, target: Tensor, weight_B: Tensor, latent_is_pad: Tensor | None) -> Tensor:
    """Mean over samples of weight * MSE of the later latents that are no padding; the first latent is not learned.

    Args:
        flow, target: [B, C, T, H, W].
        weight_B: the flow-matching weight of each sample's time.
        latent_is_pad: boolean [B, T - 1], or None.
    """
    error_BT = (_wide(flow[:, :, 1:]) - _wide(target[:, :, 1:])).square().mean(dim=(1, 3, 4))
    weights = torch.ones_like(error_BT) if latent_is_pad is None else (~latent_is_pad).to(error_BT.dtype)
    per_sample = (error_BT * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)
    return (per_sample * weight_B.to(per_sample.dtype)).mean()


def action_loss(
    actions: Tensor, target: Tensor, action_is_pad_BH: Tensor | None, weighting: TemporalWeighting | None
) -> Tensor:
    """Weighted mean of the squared error over steps; padded steps weigh nothing.

    Args:
        actions, target: [B, H, A], normalised.
        action_is_pad_BH: boolean, or None.
        weighting: weights of prefix and tail, or None for 1 everywhere.
    """
    error_BH = (_wide(actions) - _wide(target)).square().mean(dim=-1)
    weights_BH = torch.ones_like(error_BH)
    if weighting is not None:
        weights_BH[:, : weighting.prefix_steps] = weighting.prefix_weight
        weights_BH[:, weighting.prefix_steps :] = weighting.tail_weight
    if action_is_pad_BH is not None:
        weights_BH = weights_BH * (~action_is_pad_BH)
    per_sample = (error_BH * weights_BH).sum(dim=1) / weights_BH.sum(dim=1).clamp_min(1e-6)
    return per_sample.mean()


def _wide(x: Tensor) -> Tensor:
    """In at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
