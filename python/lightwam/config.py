# SPDX-License-Identifier: Apache-2.0
"""Every number of a Light-WAM policy, as frozen dataclasses.

`LightWAMConfig` is the root. Presets: `libero()` and `robotwin()` are the published full-size policies (arXiv
2606.08242), `nano()` the bundled small one. `from_published()` reads the published field names, `to_dict()` and
`from_dict()` make a JSON round trip. Every constructor checks its values and raises `ConfigError`.

This module needs nothing but the standard library, so the runtime may import it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightwam._config_io import dataclass_from_dict, dataclass_to_dict
from lightwam.errors import ConfigError

AttentionMask = Literal["first_frame_causal", "per_frame_causal", "bidirectional"]
Pooling = Literal["learned_query", "mean"]
FeatureSource = Literal["backbone", "adapted", "delta"]
TextEncoderKind = Literal["umt5", "hashed_words"]
GripperRule = Literal["libero", "none"]

LORA_MODULES: tuple[str, ...] = (
    *(f"{attention}.{linear}" for attention in ("self_attn", "cross_attn") for linear in "qkvo"),
    "ffn.0",
    "ffn.2",
)
FEATURE_SOURCES: tuple[FeatureSource, ...] = ("backbone", "adapted", "delta")
NORMALIZATION_MODES: tuple[str, ...] = ("min/max", "q01/q99", "z-score")
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


def _require(condition: bool, what: str, value: object, remedy: str) -> None:
    """Raise a one-line `ConfigError` that names the field, its value and the remedy."""
    if not condition:
        raise ConfigError(f"{what} is {value!r}: {remedy}")


def _require_positive(owner: str, **values: float) -> None:
    for name, value in values.items():
        _require(value > 0, f"{owner}.{name}", value, "it must be positive")


def _numbers(config: Any) -> dict[str, float]:
    """The plain number fields of a dataclass."""
    values = {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if type(value) in (int, float)}


def _require_layers(owner: str, layers: tuple[int, ...]) -> None:
    increasing = all(a < b for a, b in itertools.pairwise(layers))
    _require(len(layers) > 0 and increasing and layers[0] >= 0, f"{owner}.layers", layers, "give rising block numbers")


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank updates `y += alpha / rank * up(down(x))` on chosen linears of chosen blocks (0-based)."""

    layers: tuple[int, ...]
    modules: tuple[str, ...] = LORA_MODULES
    rank: int = 64
    alpha: float = 128.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _require_positive("lora", rank=self.rank, alpha=self.alpha)
        _require_layers("lora", self.layers)
        _require(0.0 <= self.dropout < 1.0, "lora.dropout", self.dropout, "it must lie in [0, 1)")
        _require(len(self.modules) > 0, "lora.modules", self.modules, f"name at least one of {LORA_MODULES}")
        _require(len(set(self.modules)) == len(self.modules), "lora.modules", self.modules, "name each linear once")
        for module in self.modules:
            _require(module in LORA_MODULES, "lora.modules", module, f"use names out of {LORA_MODULES}")


@dataclass(frozen=True)
class AdapterConfig:
    """Residual adapters `h' = h + scale * up(GELU(down(LN(h))))` after chosen blocks (0-based)."""

    layers: tuple[int, ...]
    dim: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("adapters", dim=self.dim)
        _require_layers("adapters", self.layers)
        _require(math.isfinite(self.scale), "adapters.scale", self.scale, "it must be a finite number")


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
        _require_positive("video_dit", **_numbers(self))
        _require(
            all(side > 0 for side in self.patch_size), "video_dit.patch_size", self.patch_size, "sides must be > 0"
        )
        _require(self.attention_mask in typing.get_args(AttentionMask), "video_dit.attention_mask", self.attention_mask,
                 f"use one of {typing.get_args(AttentionMask)}")  # fmt: skip
        _require(self.patch_size[0] == 1, "video_dit.patch_size", self.patch_size, "its first number must be 1")
        # 3-D RoPE turns pairs of channels: head_dim splits into d - 2*(d//3), d//3, d//3, and each part must be even.
        evenly = self.head_dim % 2 == 0 and (self.head_dim // 3) % 2 == 0
        _require(evenly, "video_dit.head_dim", self.head_dim, "head_dim and head_dim // 3 must be even for 3-D RoPE")
        _require(self.freq_dim % 2 == 0, "video_dit.freq_dim", self.freq_dim, "it must be even")
        for owner, part in (("adapters", self.adapters), ("lora", self.lora)):
            if part is not None:
                _require(part.layers[-1] < self.num_layers, f"video_dit.{owner}.layers", part.layers,
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
        _require_positive("action_expert", per_layer_dim=self.per_layer_dim, trunk_dim=self.trunk_dim,
                          step_pos_dim=self.step_pos_dim, num_queries=self.num_queries, num_heads=self.num_heads,
                          merge_slots=self.merge_slots)  # fmt: skip
        _require(self.num_trunk_blocks >= 0, "action_expert.num_trunk_blocks", self.num_trunk_blocks, "must be >= 0")
        _require(self.step_pos_dim % 2 == 0, "action_expert.step_pos_dim", self.step_pos_dim, "it must be even")
        _require(self.pooling in ("learned_query", "mean"), "action_expert.pooling", self.pooling,
                 "use 'learned_query' or 'mean'")  # fmt: skip
        if self.merge_dim is not None:
            _require_positive("action_expert", merge_dim=self.merge_dim)
            _require(self.pooling == "learned_query", "action_expert.merge_dim", self.merge_dim,
                     "merged slots need pooling 'learned_query'")  # fmt: skip
        for sources in (self.sources, *(self.layer_sources or ())):
            known = all(source in FEATURE_SOURCES for source in sources)
            _require(known and 0 < len(sources) == len(set(sources)), "action_expert sources", sources,
                     f"name each source once, out of {FEATURE_SOURCES}")  # fmt: skip

    def sources_per_layer(self, num_layers: int) -> tuple[tuple[FeatureSource, ...], ...]:
        """The sources that each of the `num_layers` adapter layers contributes, in order of concatenation."""
        if self.layer_sources is None:
            return (self.sources,) * num_layers
        _require(len(self.layer_sources) == num_layers, "action_expert.layer_sources", self.layer_sources,
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
        _require_positive("vae", base_dim=self.base_dim, z_dim=self.z_dim, num_res_blocks=self.num_res_blocks)
        _require(len(self.multipliers) > 1 and min(self.multipliers) > 0, "vae.multipliers", self.multipliers,
                 "give at least two positive widths")  # fmt: skip
        _require(len(self.temporal_downsample) == len(self.multipliers) - 1, "vae.temporal_downsample",
                 self.temporal_downsample, f"give {len(self.multipliers) - 1} booleans, one a transition")  # fmt: skip
        _require(len(self.latent_mean) == self.z_dim, "vae.latent_mean", self.latent_mean, f"give {self.z_dim} numbers")
        _require(len(self.latent_std) == self.z_dim and min(self.latent_std) > 0, "vae.latent_std", self.latent_std,
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
        _require_positive("text", **_numbers(self))
        _require(self.kind in ("umt5", "hashed_words"), "text.kind", self.kind, "use 'umt5' or 'hashed_words'")
        _require("{task}" in self.prompt_template, "text.prompt_template", self.prompt_template, "it must hold {task}")
        _require(self.attention_dim % self.num_heads == 0, "text.attention_dim", self.attention_dim,
                 f"it must be a multiple of text.num_heads = {self.num_heads}")  # fmt: skip


@dataclass(frozen=True)
class Camera:
    """One camera's rectangle on the canvas (pixels) and the flips that turn its raw image upright."""

    name: str
    top: int
    left: int
    height: int
    width: int
    flip_vertical: bool = False
    flip_horizontal: bool = False

    def __post_init__(self) -> None:
        _require(self.name != "", "camera.name", self.name, "give the camera a name")
        _require_positive(f"camera {self.name}", height=self.height, width=self.width)
        _require(min(self.top, self.left) >= 0, f"camera {self.name}", (self.top, self.left), "corners must be >= 0")


@dataclass(frozen=True)
class CameraLayout:
    """How the cameras, each resized to its rectangle, join into one canvas (pixels, H x W)."""

    height: int
    width: int
    cameras: tuple[Camera, ...]

    def __post_init__(self) -> None:
        size = (self.height, self.width)
        _require(min(size) > 0 and self.height % 16 == self.width % 16 == 0, "cameras canvas", size,
                 "height and width must be positive multiples of 16")  # fmt: skip
        names = [camera.name for camera in self.cameras]
        _require(0 < len(names) == len(set(names)), "cameras", names, "give at least one camera, each name once")
        for camera in self.cameras:
            inside = camera.top + camera.height <= self.height and camera.left + camera.width <= self.width
            _require(inside, f"camera {camera.name}", camera, f"its rectangle must lie inside the canvas {size}")
        covered = sum(camera.height * camera.width for camera in self.cameras)
        apart = all(_apart(a, b) for i, a in enumerate(self.cameras) for b in self.cameras[i + 1 :])
        _require(apart and covered == self.height * self.width, "cameras", names, "rectangles must tile the canvas")


def _apart(a: Camera, b: Camera) -> bool:
    """Whether two camera rectangles share no pixel."""
    beside = a.left + a.width <= b.left or b.left + b.width <= a.left
    return beside or a.top + a.height <= b.top or b.top + b.height <= a.top


@dataclass(frozen=True)
class NormalizationConfig:
    """Modes of the state and action normalisers: 'min/max', 'q01/q99', 'z-score', or constants such as '-1/1'."""

    state: str = "min/max"
    action: str = "min/max"
    clamp: float = 5.0

    def __post_init__(self) -> None:
        _require_positive("normalization", clamp=self.clamp)
        for name, mode in (("state", self.state), ("action", self.action)):
            _require(mode in NORMALIZATION_MODES or _is_constant_range(mode), f"normalization.{name}", mode,
                     f"use one of {NORMALIZATION_MODES} or two rising numbers such as '-1/1'")  # fmt: skip


def _is_constant_range(mode: str) -> bool:
    try:
        low, high = (float(part) for part in mode.split("/"))
    except ValueError:
        return False
    return math.isfinite(low) and math.isfinite(high) and low < high


@dataclass(frozen=True)
class FlowMatchingConfig:
    """Shifted linear flow: sigma = s u / (1 + (s - 1) u), time = num_train_timesteps * sigma."""

    shift: float = 5.0
    num_train_timesteps: int = 1000
    num_sampling_steps: int = 10

    def __post_init__(self) -> None:
        _require_positive("flow_matching", shift=self.shift, num_train_timesteps=self.num_train_timesteps,
                          num_sampling_steps=self.num_sampling_steps)  # fmt: skip


@dataclass(frozen=True)
class TemporalWeighting:
    """Weight of each control step in the action loss: `prefix_weight` on the first steps, `tail_weight` after."""

    prefix_steps: int
    prefix_weight: float = 1.0
    tail_weight: float = 0.0

    def __post_init__(self) -> None:
        _require(self.prefix_steps >= 0, "temporal_weighting.prefix_steps", self.prefix_steps, "must be >= 0")
        weights = (self.prefix_weight, self.tail_weight)
        _require(
            min(weights) >= 0 and max(weights) > 0, "temporal_weighting", weights, "weights: >= 0, one of them > 0"
        )


@dataclass(frozen=True)
class LossConfig:
    """loss = lambda_video * flow loss + lambda_action * action loss."""

    lambda_video: float = 1.0
    lambda_action: float = 1.0
    temporal_weighting: TemporalWeighting | None = None

    def __post_init__(self) -> None:
        lambdas = (self.lambda_video, self.lambda_action)
        _require(min(lambdas) >= 0, "loss", lambdas, "lambda_video and lambda_action must be >= 0")


@dataclass(frozen=True)
class VideoConfig:
    """The future-video window: `num_frames` images, every `stride`-th control step; its latents shrink in space."""

    num_frames: int = 9
    stride: int = 4
    spatial_downsample: int = 2
    downsample_action_pass: bool = False

    def __post_init__(self) -> None:
        _require_positive("video", num_frames=self.num_frames, stride=self.stride,
                          spatial_downsample=self.spatial_downsample)  # fmt: skip

    @property
    def window(self) -> int:
        """Control steps that a window spans, first and last included (33 for LIBERO)."""
        return (self.num_frames - 1) * self.stride + 1


@dataclass(frozen=True)
class LightWAMConfig:
    """Everything that defines a policy: its networks, its inputs and outputs, and its losses."""

    name: str
    video_dit: VideoDiTConfig
    action_expert: ActionExpertConfig
    vae: VAEConfig
    text: TextConfig
    cameras: CameraLayout
    state_dim: int
    action_dim: int
    horizon: int
    replan: int
    gripper: GripperRule = "none"
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    flow_matching: FlowMatchingConfig = field(default_factory=FlowMatchingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    video: VideoConfig = field(default_factory=VideoConfig)

    def __post_init__(self) -> None:
        _require_positive("config", state_dim=self.state_dim, action_dim=self.action_dim, horizon=self.horizon)
        _require(1 <= self.replan <= self.horizon, "config.replan", self.replan, f"must lie in 1..{self.horizon}")
        _require(self.gripper in ("libero", "none"), "config.gripper", self.gripper, "use 'libero' or 'none'")
        dit, expert = self.video_dit, self.action_expert
        _require(self.vae.z_dim == dit.in_dim == dit.out_dim, "vae.z_dim", self.vae.z_dim,
                 f"it must equal video_dit.in_dim = {dit.in_dim} and out_dim = {dit.out_dim}")  # fmt: skip
        _require(
            self.text.width == dit.text_dim, "text.width", self.text.width, f"must equal text_dim = {dit.text_dim}"
        )
        expert.sources_per_layer(len(dit.adapters.layers))
        _require(expert.pooling == "mean" or dit.hidden_dim % expert.num_heads == 0, "action_expert.num_heads",
                 expert.num_heads, f"it must divide video_dit.hidden_dim = {dit.hidden_dim}")  # fmt: skip
        _require((self.video.num_frames - 1) % self.vae.temporal_factor == 0, "video.num_frames",
                 self.video.num_frames, f"it must be 1 + a multiple of {self.vae.temporal_factor}")  # fmt: skip
        cell = [self.vae.spatial_factor * side for side in dit.patch_size[1:]]
        fits = self.cameras.height % cell[0] == 0 == self.cameras.width % cell[1]
        _require(fits, "cameras canvas", (self.cameras.height, self.cameras.width), f"use multiples of {tuple(cell)}")

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of the canvas's latents."""
        return self.cameras.height // self.vae.spatial_factor, self.cameras.width // self.vae.spatial_factor

    @property
    def token_grid(self) -> tuple[int, int]:
        """(rows, columns) of tokens that the action pass sees."""
        factor = self.video.spatial_downsample if self.video.downsample_action_pass else 1
        (height, width), (_, patch_h, patch_w) = self.latent_size, self.video_dit.patch_size
        return height // factor // patch_h, width // factor // patch_w

    @staticmethod
    def libero() -> LightWAMConfig:
        """The published LIBERO policy: 441,031,543 trainable parameters, two cameras, 7-d actions."""
        from lightwam import presets

        return presets.libero()

    @staticmethod
    def robotwin() -> LightWAMConfig:
        """The published RoboTwin 2.0 policy: three cameras, 14-d joint targets."""
        from lightwam import presets

        return presets.robotwin()

    @staticmethod
    def nano() -> LightWAMConfig:
        """The bundled small policy for LIBERO: same architecture, trained whole, words hashed instead of umT5."""
        from lightwam import presets

        return presets.nano()

    @staticmethod
    def from_published(mapping: Mapping[str, Any]) -> LightWAMConfig:
        """Read a configuration in the published field names; see `lightwam.published.from_published`."""
        from lightwam import published

        return published.from_published(mapping)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_dict` turns it back into an equal configuration."""
        return dataclass_to_dict(self)

    @staticmethod
    def from_dict(mapping: Mapping[str, Any]) -> LightWAMConfig:
        """Inverse of `to_dict`. Raises `ConfigError` on an unknown or missing field, a wrong type or a bad value."""
        return dataclass_from_dict(LightWAMConfig, mapping, "config")
