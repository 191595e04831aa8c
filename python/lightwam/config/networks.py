# SPDX-License-Identifier: Apache-2.0
"""The networks of a policy as frozen dataclasses: parts of `LightWAMConfig`, which is where to import them from."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass
from typing import Literal

from lightwam.config.checks import numbers, require, require_layers, require_positive

AttentionMask = Literal["first_frame_causal", "per_frame_causal", "bidirectional"]
Pooling = Literal["learned_query", "mean"]
FeatureSource = Literal["backbone", "adapted", "delta"]
TextEncoderKind = Literal["umt5", "hashed_words"]

LORA_MODULES: tuple[str, ...] = (
    *(f"{attention}.{linear}" for attention in ("self_attn", "cross_attn") for linear in "qkvo"),
    "ffn.0",
    "ffn.2",
)
FEATURE_SOURCES: tuple[FeatureSource, ...] = ("backbone", "adapted", "delta")
LIBERO_PROMPT = "A video recorded from a robot's point of view executing the following instruction: {task}"

# Per-channel statistics of the Wan2.1 VAE's 16 latent channels, as published with its weights.
WAN_LATENT_MEAN: tuple[float, ...] = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_LATENT_STD: tuple[float, ...] = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank updates `y += alpha / rank * up(down(x))` on chosen linears of chosen blocks (0-based)."""

    layers: tuple[int, ...]
    modules: tuple[str, ...] = LORA_MODULES
    rank: int = 64
    alpha: float = 128.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_positive("lora", rank=self.rank, alpha=self.alpha)
        require_layers("lora", self.layers)
        require(0.0 <= self.dropout < 1.0, "lora.dropout", self.dropout, "it must lie in [0, 1)")
        require(len(self.modules) > 0, "lora.modules", self.modules, f"name at least one of {LORA_MODULES}")
        require(len(set(self.modules)) == len(self.modules), "lora.modules", self.modules, "name each linear once")
        for module in self.modules:
            require(module in LORA_MODULES, "lora.modules", module, f"use names out of {LORA_MODULES}")


@dataclass(frozen=True)
class AdapterConfig:
    """Residual adapters `h' = h + scale * up(GELU(down(LN(h))))` after chosen blocks (0-based)."""

    layers: tuple[int, ...]
    dim: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        require_positive("adapters", dim=self.dim)
        require_layers("adapters", self.layers)
        require(math.isfinite(self.scale), "adapters.scale", self.scale, "it must be a finite number")


@dataclass(frozen=True)
class VideoDiTConfig:
    """The video diffusion transformer. `train_backbone` false freezes all but LoRA, adapters and head."""

    hidden_dim: int
    ffn_dim: int
    num_heads: int
    head_dim: int
    num_layers: int
    adapters: AdapterConfig
    lora: LoRAConfig | None = None
    in_dim: int = 16
    out_dim: int = 16
    freq_dim: int = 256
    text_dim: int = 4096
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    rope_theta: float = 10000.0
    attention_mask: AttentionMask = "first_frame_causal"
    train_backbone: bool = False

    def __post_init__(self) -> None:
        require_positive("video_dit", **numbers(self))
        require(all(side > 0 for side in self.patch_size), "video_dit.patch_size", self.patch_size, "sides must be > 0")
        require(self.attention_mask in typing.get_args(AttentionMask), "video_dit.attention_mask", self.attention_mask,
                f"use one of {typing.get_args(AttentionMask)}")  # fmt: skip
        require(self.patch_size[0] == 1, "video_dit.patch_size", self.patch_size, "its first number must be 1")
        # 3-D RoPE turns pairs of channels: head_dim splits into d - 2*(d//3), d//3, d//3, and each part must be even.
        evenly = self.head_dim % 2 == 0 and (self.head_dim // 3) % 2 == 0
        require(evenly, "video_dit.head_dim", self.head_dim, "head_dim and head_dim // 3 must be even for 3-D RoPE")
        require(self.freq_dim % 2 == 0, "video_dit.freq_dim", self.freq_dim, "it must be even")
        for owner, part in (("adapters", self.adapters), ("lora", self.lora)):
            if part is not None:
                require(part.layers[-1] < self.num_layers, f"video_dit.{owner}.layers", part.layers,
                        f"block numbers must lie in 0..{self.num_layers - 1}")  # fmt: skip

    @property
    def attention_dim(self) -> int:
        """Width of q, k and v: all heads together."""
        return self.num_heads * self.head_dim


@dataclass(frozen=True)
class ActionExpertConfig:
    """The state-fusion action expert. `layer_sources`, where given, replaces `sources` layer by layer."""

    per_layer_dim: int
    trunk_dim: int
    num_trunk_blocks: int = 1
    step_pos_dim: int = 256
    pooling: Pooling = "learned_query"
    num_queries: int = 16
    num_heads: int = 8
    merge_dim: int | None = None
    merge_slots: int = 2
    sources: tuple[FeatureSource, ...] = ("adapted",)
    layer_sources: tuple[tuple[FeatureSource, ...], ...] | None = None

    def __post_init__(self) -> None:
        require_positive("action_expert", per_layer_dim=self.per_layer_dim, trunk_dim=self.trunk_dim,
                         step_pos_dim=self.step_pos_dim, num_queries=self.num_queries, num_heads=self.num_heads,
                         merge_slots=self.merge_slots)  # fmt: skip
        require(self.num_trunk_blocks >= 0, "action_expert.num_trunk_blocks", self.num_trunk_blocks, "must be >= 0")
        require(self.step_pos_dim % 2 == 0, "action_expert.step_pos_dim", self.step_pos_dim, "it must be even")
        require(self.pooling in ("learned_query", "mean"), "action_expert.pooling", self.pooling,
                "use 'learned_query' or 'mean'")  # fmt: skip
        if self.merge_dim is not None:
            require_positive("action_expert", merge_dim=self.merge_dim)
            require(self.pooling == "learned_query", "action_expert.merge_dim", self.merge_dim,
                    "merged slots need pooling 'learned_query'")  # fmt: skip
        for sources in (self.sources, *(self.layer_sources or ())):
            known = all(source in FEATURE_SOURCES for source in sources)
            require(known and 0 < len(sources) == len(set(sources)), "action_expert sources", sources,
                    f"name each source once, out of {FEATURE_SOURCES}")  # fmt: skip

    def sources_per_layer(self, num_layers: int) -> tuple[tuple[FeatureSource, ...], ...]:
        """The sources that each of the `num_layers` adapter layers contributes, in order of concatenation."""
        if self.layer_sources is None:
            return (self.sources,) * num_layers
        require(len(self.layer_sources) == num_layers, "action_expert.layer_sources", self.layer_sources,
                f"give one entry for each of the {num_layers} adapter layers")  # fmt: skip
        return self.layer_sources


@dataclass(frozen=True)
class VAEConfig:
    """Causal Wan VAE: width base * multiplier at each level; every level but the last halves the image."""

    base_dim: int = 96
    z_dim: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    latent_mean: tuple[float, ...] = WAN_LATENT_MEAN
    latent_std: tuple[float, ...] = WAN_LATENT_STD

    def __post_init__(self) -> None:
        require_positive("vae", base_dim=self.base_dim, z_dim=self.z_dim, num_res_blocks=self.num_res_blocks)
        require(len(self.multipliers) > 1 and min(self.multipliers) > 0, "vae.multipliers", self.multipliers,
                "give at least two positive widths")  # fmt: skip
        require(len(self.temporal_downsample) == len(self.multipliers) - 1, "vae.temporal_downsample",
                self.temporal_downsample, f"give {len(self.multipliers) - 1} booleans, one a transition")  # fmt: skip
        require(len(self.latent_mean) == self.z_dim, "vae.latent_mean", self.latent_mean, f"give {self.z_dim} numbers")
        require(len(self.latent_std) == self.z_dim and min(self.latent_std) > 0, "vae.latent_std", self.latent_std,
                f"give {self.z_dim} positive numbers")  # fmt: skip

    @property
    def spatial_factor(self) -> int:
        """Pixels a latent cell covers along each image axis (8 for Wan)."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def temporal_factor(self) -> int:
        """Frames a latent covers after the first frame, which has a latent of its own (4 for Wan)."""
        return int(2 ** sum(self.temporal_downsample))


@dataclass(frozen=True)
class TextConfig:
    """Instruction -> context rows [length, width]. The encoder sizes apply to the kind that has them."""

    kind: TextEncoderKind = "umt5"
    length: int = 128
    width: int = 4096
    prompt_template: str = LIBERO_PROMPT
    buckets: int = 1024  # hashed_words: rows of the word table
    vocab: int = 256384  # umt5 from here on
    attention_dim: int = 4096
    ffn_dim: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    position_buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        require_positive("text", **numbers(self))
        require(self.kind in ("umt5", "hashed_words"), "text.kind", self.kind, "use 'umt5' or 'hashed_words'")
        require("{task}" in self.prompt_template, "text.prompt_template", self.prompt_template, "it must hold {task}")
        require(self.attention_dim % self.num_heads == 0, "text.attention_dim", self.attention_dim,
                f"it must be a multiple of text.num_heads = {self.num_heads}")  # fmt: skip
