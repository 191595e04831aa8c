# SPDX-License-Identifier: Apache-2.0
"""The Wan VAE by 2-D convolutions in channels-last memory: the same function as `WanVAE`'s, several times faster.

A clip is a batch of images: a causal convolution reads each image beside its two predecessors, as more channels. A
single frame is preceded by zero frames, so only the last temporal tap acts, and temporal resampling does nothing. The
norm followed by SiLU gets a backward pass of its own: on a CPU those two are most of the time.

Legend: B clips, T frames of a clip, N = B T images, C channels, H x W pixels, Z latent channels, R pixels of a batch.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.model.vae import CausalConv3d, Downsample, FrameAttention, ResidualBlock, Upsample, WanVAE

_EPS = 1e-12
_TILE_WIDTH = 256


class _NormSiLU(torch.autograd.Function):
    """silu(x / sqrt(mean over channels of x^2) * gamma) of [N, C, H, W] in channels-last memory, gamma [C].

    Channels are few, so pixels are joined to rows of about 256 numbers with gamma repeated, and the mean over channels
    is a matmul: long loops are what makes a CPU fast.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor) -> Tensor:
        channels = x.shape[1]
        rows_RC = x.permute(0, 2, 3, 1).reshape(-1, channels)
        repeats = math.gcd(rows_RC.shape[0], max(1, _TILE_WIDTH // channels))
        mean_CC = torch.full((channels, channels), 1.0 / channels, dtype=x.dtype, device=x.device)
        inverse_RC = ((rows_RC * rows_RC) @ mean_CC).add_(_EPS).rsqrt_()
        normed = (rows_RC * inverse_RC).view(-1, repeats * channels)
        gamma_tile = gamma.to(x.dtype).repeat(repeats)
        ctx.save_for_backward(normed, inverse_RC, gamma_tile, mean_CC)
        ctx.shape, ctx.gamma_dtype = x.shape, gamma.dtype
        return _images(F.silu(normed * gamma_tile), x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        normed, inverse_RC, gamma_tile, mean_CC = ctx.saved_tensors
        upstream = gradients[0].permute(0, 2, 3, 1).reshape(normed.shape)
        gated = torch.ops.aten.silu_backward(upstream, normed * gamma_tile)
        wide = torch.promote_types(normed.dtype, torch.float32)
        gamma_gradient = (gated * normed).sum(0, dtype=wide).view(-1, len(mean_CC)).sum(0)
        scaled = gated * gamma_tile
        projection_RC = (scaled * normed).view(inverse_RC.shape) @ mean_CC
        rows_RC = inverse_RC * (scaled.view(inverse_RC.shape) - normed.view(inverse_RC.shape) * projection_RC)
        return _images(rows_RC, ctx.shape), gamma_gradient.to(ctx.gamma_dtype)


def _images(rows: Tensor, shape: torch.Size) -> Tensor:
    """Rows of pixels back to [N, C, H, W], channels last in memory."""
    batch, channels, height, width = shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _clip(x: Tensor, frames: int) -> Tensor:
    """[N, C, H, W] in channels-last memory -> its view [B, T, H, W, C]."""
    images, _, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(images // frames, frames, height, width, -1)


def _stacked(windows: list[Tensor]) -> Tensor:
    """Shifted clips [B, T, H, W, C], oldest first -> images [N, 3 C, H, W] that hold them as channels."""
    return torch.cat(windows, dim=-1).flatten(0, 1).permute(0, 3, 1, 2)


def _conv(layer: CausalConv3d, x: Tensor, frames: int) -> Tensor:
    """A causal convolution of stride 1 over clips of `frames` images that zeros precede."""
    taps, padding = layer.kernel_size[0], layer.kernel_size[-1] // 2
    if taps == 1 or frames == 1:
        return F.conv2d(x, layer.weight[:, :, -1], layer.bias, padding=padding)
    clip = F.pad(_clip(x, frames), (0, 0, 0, 0, 0, 0, taps - 1, 0))
    stacked = _stacked([clip[:, tap : tap + frames] for tap in range(taps)])
    return F.conv2d(stacked, layer.weight.transpose(1, 2).flatten(1, 2), layer.bias, padding=padding)


def _norm_silu(norm: Any, x: Tensor) -> Tensor:
    return _NormSiLU.apply(x, norm.gamma.flatten())  # type: ignore[no-any-return, no-untyped-call]


def _residual_block(block: ResidualBlock, x: Tensor, frames: int) -> Tensor:
    first_norm, _, first_conv, second_norm, _, _, second_conv = cast(Any, block.residual)
    shortcut = x if isinstance(block.shortcut, nn.Identity) else _conv(cast(Any, block.shortcut), x, frames)
    hidden = _conv(first_conv, _norm_silu(first_norm, x), frames)
    return shortcut + _conv(second_conv, _norm_silu(second_norm, hidden), frames)


def _downsample(layer: Downsample, x: Tensor, frames: int) -> tuple[Tensor, int]:
    x = layer.resample(x)
    conv = layer.time_conv
    if conv is None or frames == 1:
        return x, frames
    clip = _clip(x, frames)
    stacked = _stacked([clip[:, 0:-2:2], clip[:, 1:-1:2], clip[:, 2::2]])
    halved = F.conv2d(stacked, conv.weight.transpose(1, 2).flatten(1, 2), conv.bias)
    frames = (frames - 1) // 2
    joined = torch.cat([clip[:, :1], _clip(halved, frames)], dim=1)
    return _stacked([joined]), frames + 1


def _upsample(layer: Upsample, x: Tensor, frames: int) -> tuple[Tensor, int]:
    if layer.time_conv is not None and frames > 1:
        clip, later = _clip(x, frames), frames - 1
        pairs = _clip(_conv(layer.time_conv, _stacked([clip[:, 1:]]), later), later)
        doubled = torch.stack(pairs.chunk(2, dim=-1), dim=2).flatten(1, 2)
        x, frames = _stacked([torch.cat([clip[:, :1], doubled], dim=1)]), 2 * later + 1
    return layer.resample(x), frames


def _run(layers: Any, x: Tensor, frames: int) -> tuple[Tensor, int]:
    for layer in layers:
        if isinstance(layer, ResidualBlock):
            x = _residual_block(layer, x, frames)
        elif isinstance(layer, Downsample):
            x, frames = _downsample(layer, x, frames)
        elif isinstance(layer, Upsample):
            x, frames = _upsample(layer, x, frames)
        elif isinstance(layer, FrameAttention):
            x = layer(x.unsqueeze(2)).squeeze(2).contiguous(memory_format=torch.channels_last)
        else:
            raise TypeError(f"the VAE holds a layer {type(layer).__name__} that has no 2-D form here")
    return x, frames


def _head(head: Any, x: Tensor, frames: int) -> Tensor:
    norm, _, conv = head
    return _conv(conv, _norm_silu(norm, x), frames)


def _to_images(clips: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [N, C, H, W] in channels-last memory."""
    return clips.permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous().permute(0, 3, 1, 2)


def _to_clips(images: Tensor, frames: int) -> Tensor:
    """[N, C, H, W] -> [B, C, T, H, W]."""
    return images.reshape(-1, frames, *images.shape[1:]).transpose(1, 2)


def encode_moments(vae: WanVAE, clips: Tensor) -> tuple[Tensor, Tensor]:
    """As `WanVAE.encode_moments`: [B, 3, T, H, W] in [-1, 1] -> two of [B, Z, 1 + (T - 1) / 4, H/8, W/8]."""
    encoder, frames = vae.model.encoder, clips.shape[2]
    x, frames = _run(encoder.downsamples, _conv(encoder.conv1, _to_images(clips), frames), frames)
    x, frames = _run(encoder.middle, x, frames)
    x = _conv(vae.model.conv1, _head(encoder.head, x, frames), frames)
    mean, log_variance = _to_clips(x, frames).chunk(2, dim=1)
    return mean, log_variance


def decode_raw(vae: WanVAE, raw: Tensor) -> Tensor:
    """As `WanVAE.decode_raw`: [B, Z, T, h, w], not normalised -> [B, 3, 1 + 4 (T - 1), 8h, 8w], not clamped."""
    decoder, frames = vae.model.decoder, raw.shape[2]
    x = _conv(decoder.conv1, _conv(vae.model.conv2, _to_images(raw), frames), frames)
    x, frames = _run(decoder.middle, x, frames)
    x, frames = _run(decoder.upsamples, x, frames)
    return _to_clips(_head(decoder.head, x, frames), frames)
