# SPDX-License-Identifier: Apache-2.0
"""Causal video VAE of the Wan2.1 family: 8x smaller in space, 4x in time, any base width.

Shapes: B batch, C channels, T frames, H W pixels, Z latent channels; a clip has T = 1 + 4k frames and gives 1 + k
latents, the first of them from the first frame alone. Clips run through encoder and decoder in chunks (first one
frame, then four at a time; one latent at a time when decoding): every temporal convolution keeps the frames that it
still needs in a `FeatureCache`, so each frame is computed once and nothing depends on the chunking's seams.

Parameter names are those of the published files under the prefix `model.`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.config import VAEConfig
from lightwam.errors import ConfigError

FeatureCache = dict[nn.Module, Tensor]
"""The trailing frames that each temporal convolution has seen, by module."""


class CausalConv3d(nn.Conv3d):
    """3-D convolution whose output frame t sees no frame after t; missing history counts as zeros."""

    def __init__(
        self, in_dim: int, out_dim: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)
    ):
        super().__init__(in_dim, out_dim, kernel, stride=stride, padding=(0, kernel[1] // 2, kernel[2] // 2))

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """[B, C, T, H, W] -> [B, C', T', H', W']; reads and renews this layer's history where `cache` is given."""
        history = self.kernel_size[0] - 1
        if history == 0:
            return super().forward(x)
        past = None if cache is None else cache.get(self)
        if past is None:
            past = x.new_zeros(*x.shape[:2], history, *x.shape[3:])
        x = torch.cat([past, x], dim=2)
        if cache is not None:
            cache[self] = x[:, :, -history:]
        return super().forward(x)


class ChannelRMSNorm(nn.Module):
    """x / rms over channels (dim 1) * gamma. `spatial_dims` is 3 for clips, 2 for images."""

    def __init__(self, dim: int, spatial_dims: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, *(1,) * spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * math.sqrt(self.gamma.shape[0]) * self.gamma


class ResidualBlock(nn.Module):
    """Twice (norm, SiLU, causal 3x3x3 convolution), plus the input (1x1x1 convolution where the widths differ)."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        # The published indices count a dropout of rate 0 at place 5.
        self.residual = nn.Sequential(
            ChannelRMSNorm(in_dim, 3),
            nn.SiLU(),
            CausalConv3d(in_dim, out_dim, (3, 3, 3)),
            ChannelRMSNorm(out_dim, 3),
            nn.SiLU(),
            nn.Identity(),
            CausalConv3d(out_dim, out_dim, (3, 3, 3)),
        )
        self.shortcut = CausalConv3d(in_dim, out_dim, (1, 1, 1)) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        shortcut: Tensor = self.shortcut(x)
        return shortcut + _run(self.residual, x, cache)


class FrameAttention(nn.Module):
    """Single-head self-attention among the pixels of each frame."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = ChannelRMSNorm(dim, 2)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, dim, frames, height, width = x.shape
        images = x.transpose(1, 2).reshape(batch * frames, dim, height, width)
        qkv = self.to_qkv(self.norm(images)).flatten(2).transpose(1, 2).unsqueeze(1)
        attended = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        images = self.proj(attended.squeeze(1).transpose(1, 2).reshape(batch * frames, dim, height, width))
        attended_frames: Tensor = images.reshape(batch, frames, dim, height, width).transpose(1, 2)
        return x + attended_frames


def _per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply an image layer to each frame of [B, C, T, H, W]."""
    batch, _, frames = x.shape[:3]
    images: Tensor = layer(x.transpose(1, 2).flatten(0, 1))
    return images.reshape(batch, frames, *images.shape[1:]).transpose(1, 2)


class Downsample(nn.Module):
    """Halve height and width; with `temporal`, halve all frames but the clip's first as well."""

    def __init__(self, dim: int, temporal: bool):
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(dim, dim, 3, stride=2))
        self.time_conv = CausalConv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        x = _per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        # Windows of three frames at stride two share one frame; the first chunk, a single frame, passes unchanged.
        last, cache[self] = cache.get(self), x[:, :, -1:]
        return x if last is None else self.time_conv_valid(torch.cat([last, x], dim=2))

    def time_conv_valid(self, x: Tensor) -> Tensor:
        """The temporal convolution without any zero history: T frames -> (T - 1) // 2."""
        conv = self.time_conv
        assert conv is not None
        return F.conv3d(x, conv.weight, conv.bias, stride=conv.stride)


class Upsample(nn.Module):
    """Double height and width, halve channels; with `temporal`, double all latents but the clip's first as well."""

    def __init__(self, dim: int, temporal: bool):
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"), nn.Conv2d(dim, dim // 2, 3, padding=1)
        )
        self.time_conv = CausalConv3d(dim, 2 * dim, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        if self.time_conv is not None:
            x = self._double_frames(self.time_conv, x, cache)
        return _per_frame(self.resample, x)

    def _double_frames(self, time_conv: CausalConv3d, x: Tensor, cache: FeatureCache) -> Tensor:
        batch, dim, frames, height, width = x.shape
        if self not in cache:
            # The clip's first latent passes unchanged, and the convolution never sees it: its history starts at zero.
            cache[self] = x
            return x
        pairs: Tensor = time_conv(x, cache).reshape(batch, 2, dim, frames, height, width)
        return pairs.permute(0, 2, 3, 1, 4, 5).reshape(batch, dim, 2 * frames, height, width)


_CACHED = (CausalConv3d, ResidualBlock, Downsample, Upsample)


def _run(layers: nn.Sequential | nn.ModuleList, x: Tensor, cache: FeatureCache) -> Tensor:
    """Apply layers in order, handing the cache to those that keep history."""
    for layer in layers:
        x = layer(x, cache) if isinstance(layer, _CACHED) else layer(x)
    return x


def _middle(dim: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(dim, dim), FrameAttention(dim), ResidualBlock(dim, dim))


def _head(dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(ChannelRMSNorm(dim, 3), nn.SiLU(), CausalConv3d(dim, out_dim, (3, 3, 3)))


class Encoder(nn.Module):
    """Frames -> mean and log-variance channels (2 Z), before the last 1x1x1 convolution."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = [config.base_dim * multiplier for multiplier in config.multipliers]
        self.conv1 = CausalConv3d(3, config.base_dim, (3, 3, 3))
        layers: list[nn.Module] = []
        dim = config.base_dim
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                layers.append(ResidualBlock(dim, width))
                dim = width
            if level < len(widths) - 1:
                layers.append(Downsample(dim, config.temporal_downsample[level]))
        self.downsamples = nn.Sequential(*layers)
        self.middle = _middle(dim)
        self.head = _head(dim, 2 * config.z_dim)

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        x = _run(self.downsamples, self.conv1(x, cache), cache)
        return _run(self.head, _run(self.middle, x, cache), cache)


class Decoder(nn.Module):
    """Latents -> frames. Each up-sampling halves the width, so the next level starts from half its predecessor's."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = [config.base_dim * multiplier for multiplier in reversed(config.multipliers)]
        temporal = list(reversed(config.temporal_downsample))
        dim = widths[0]
        self.conv1 = CausalConv3d(config.z_dim, dim, (3, 3, 3))
        self.middle = _middle(dim)
        layers: list[nn.Module] = []
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks + 1):
                layers.append(ResidualBlock(dim, width))
                dim = width
            if level < len(widths) - 1:
                layers.append(Upsample(dim, temporal[level]))
                dim //= 2
        self.upsamples = nn.Sequential(*layers)
        self.head = _head(dim, 3)

    def forward(self, z: Tensor, cache: FeatureCache) -> Tensor:
        x = _run(self.middle, self.conv1(z, cache), cache)
        return _run(self.head, _run(self.upsamples, x, cache), cache)


class _Networks(nn.Module):
    """The published `model.` level: encoder, decoder and the two 1x1x1 convolutions between them."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.encoder = Encoder(config)
        self.conv1 = CausalConv3d(2 * config.z_dim, 2 * config.z_dim, (1, 1, 1))
        self.conv2 = CausalConv3d(config.z_dim, config.z_dim, (1, 1, 1))
        self.decoder = Decoder(config)


class WanVAE(nn.Module):
    """Encoder and decoder with the latent statistics of `config`. Source: Wan2.1 technical report, its VAE."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.model = _Networks(config)
        self.set_latent_statistics()

    def set_latent_statistics(self) -> None:
        """The configuration's latent statistics as buffers: once more for a module that was made on the meta device."""
        shape = (1, self.config.z_dim, 1, 1, 1)
        for name in ("latent_mean", "latent_std"):
            self.register_buffer(name, torch.tensor(getattr(self.config, name)).reshape(shape), persistent=False)

    def encode_moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent distribution, not yet normalised (what a VAE is trained on).

        Args:
            video: [B, 3, T, H, W] in [-1, 1]; T = 1 + 4k, H and W multiples of 8.

        Returns:
            Two tensors [B, Z, 1 + k, H/8, W/8].

        Raises:
            ConfigError: on any other shape.
        """
        self._check_video(video)
        cache: FeatureCache = {}
        chunks = [self.model.encoder(chunk, cache) for chunk in self._chunks(video)]
        mean, log_variance = self.model.conv1(torch.cat(chunks, dim=2)).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, video: Tensor) -> Tensor:
        """Frames [B, 3, T, H, W] in [-1, 1] -> latents [B, Z, 1 + k, H/8, W/8], (mean - latent_mean) / latent_std."""
        mean, _ = self.encode_moments(video)
        return self.normalize(mean)

    def normalize(self, mean: Tensor) -> Tensor:
        """Raw latents to the scale that the DiT sees."""
        # Multiplying with the reciprocal is what the published code does; it decides the last bit.
        return (mean - self.latent_mean.to(mean.dtype)) * (1.0 / self.latent_std).to(mean.dtype)

    def decode(self, latents: Tensor, clamp: bool = True) -> Tensor:
        """Frames of normalised latents: [B, Z, 1 + k, h, w] -> [B, 3, 1 + 4k, 8h, 8w], in [-1, 1] where clamped."""
        if latents.ndim != 5 or latents.shape[1] != self.config.z_dim:
            raise ConfigError(f"latents have shape {tuple(latents.shape)}: give [B, {self.config.z_dim}, T, h, w]")
        raw = latents / (1.0 / self.latent_std).to(latents.dtype) + self.latent_mean.to(latents.dtype)
        video = self.decode_raw(raw)
        return video.clamp(-1.0, 1.0) if clamp else video

    def decode_raw(self, raw: Tensor) -> Tensor:
        """Frames of raw (not normalised) latents, not clamped: what a VAE is trained on."""
        features: Tensor = self.model.conv2(raw)
        cache: FeatureCache = {}
        return torch.cat([self.model.decoder(latent, cache) for latent in torch.split(features, 1, dim=2)], dim=2)

    def _chunks(self, video: Tensor) -> Iterator[Tensor]:
        yield video[:, :, :1]
        for start in range(1, video.shape[2], self.config.temporal_factor):
            yield video[:, :, start : start + self.config.temporal_factor]

    def _check_video(self, video: Tensor) -> None:
        time, space = self.config.temporal_factor, self.config.spatial_factor
        fits = (
            video.ndim == 5
            and video.shape[1] == 3
            and video.shape[2] % time == 1 % time
            and video.shape[3] % space == video.shape[4] % space == 0
        )
        if not fits:
            raise ConfigError(
                f"video has shape {tuple(video.shape)}: give [B, 3, T, H, W] with T = 1 + a multiple of {time} "
                f"and H, W multiples of {space}"
            )
