# SPDX-License-Identifier: Apache-2.0
"""Every number of a Light-WAM policy, as frozen dataclasses.

`LightWAMConfig` is the root. Presets: `libero()` and `robotwin()` are the published full-size policies (arXiv
2606.08242), `nano()` the bundled small one. `from_published()` reads the published field names, `to_dict()` and
`from_dict()` make a JSON round trip. Every constructor checks its values and raises `ConfigError`.

This module needs nothing but the standard library, so the runtime may import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightwam.config.checks import require, require_positive
from lightwam.config.data import CameraLayout, NormalizationConfig
from lightwam.config.networks import (
    ActionExpertConfig,
    TextConfig,
    VAEConfig,
    VideoDiTConfig,
)
from lightwam.config.serialize import dataclass_from_dict, dataclass_to_dict

GripperRule = Literal["libero", "none"]


@dataclass(frozen=True)
class FlowMatchingConfig:
    """Shifted linear flow: sigma = s u / (1 + (s - 1) u), time = num_train_timesteps * sigma."""

    shift: float = 5.0
    num_train_timesteps: int = 1000
    num_sampling_steps: int = 10

    def __post_init__(self) -> None:
        require_positive("flow_matching", shift=self.shift, num_train_timesteps=self.num_train_timesteps,
                         num_sampling_steps=self.num_sampling_steps)  # fmt: skip


@dataclass(frozen=True)
class TemporalWeighting:
    """Weight of each control step in the action loss: `prefix_weight` on the first steps, `tail_weight` after."""

    prefix_steps: int
    prefix_weight: float = 1.0
    tail_weight: float = 0.0

    def __post_init__(self) -> None:
        require(self.prefix_steps >= 0, "temporal_weighting.prefix_steps", self.prefix_steps, "must be >= 0")
        weights = (self.prefix_weight, self.tail_weight)
        require(min(weights) >= 0 and max(weights) > 0, "temporal_weighting", weights, "weights: >= 0, one of them > 0")


@dataclass(frozen=True)
class LossConfig:
    """loss = lambda_video * flow loss + lambda_action * action loss."""

    lambda_video: float = 1.0
    lambda_action: float = 1.0
    temporal_weighting: TemporalWeighting | None = None

    def __post_init__(self) -> None:
        lambdas = (self.lambda_video, self.lambda_action)
        require(min(lambdas) >= 0, "loss", lambdas, "lambda_video and lambda_action must be >= 0")


@dataclass(frozen=True)
class VideoConfig:
    """The future-video window: `num_frames` images, every `stride`-th control step; its latents shrink in space."""

    num_frames: int = 9
    stride: int = 4
    spatial_downsample: int = 2
    downsample_action_pass: bool = False

    def __post_init__(self) -> None:
        require_positive("video", num_frames=self.num_frames, stride=self.stride,
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
    replan_steps: int
    gripper: GripperRule = "none"
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    flow_matching: FlowMatchingConfig = field(default_factory=FlowMatchingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    video: VideoConfig = field(default_factory=VideoConfig)

    def __post_init__(self) -> None:
        require_positive("config", state_dim=self.state_dim, action_dim=self.action_dim, horizon=self.horizon)
        require(
            1 <= self.replan_steps <= self.horizon,
            "config.replan_steps",
            self.replan_steps,
            f"must lie in 1..{self.horizon}",
        )
        require(self.gripper in ("libero", "none"), "config.gripper", self.gripper, "use 'libero' or 'none'")
        dit, expert = self.video_dit, self.action_expert
        require(self.vae.z_dim == dit.in_dim == dit.out_dim, "vae.z_dim", self.vae.z_dim,
                f"it must equal video_dit.in_dim = {dit.in_dim} and out_dim = {dit.out_dim}")  # fmt: skip
        require(self.text.width == dit.text_dim, "text.width", self.text.width, f"must equal text_dim = {dit.text_dim}")
        expert.sources_per_layer(len(dit.adapters.layers))
        require(expert.pooling == "mean" or dit.hidden_dim % expert.num_heads == 0, "action_expert.num_heads",
                expert.num_heads, f"it must divide video_dit.hidden_dim = {dit.hidden_dim}")  # fmt: skip
        require((self.video.num_frames - 1) % self.vae.temporal_factor == 0, "video.num_frames",
                self.video.num_frames, f"it must be 1 + a multiple of {self.vae.temporal_factor}")  # fmt: skip
        cell = [self.vae.spatial_factor * side for side in dit.patch_size[1:]]
        fits = self.cameras.height % cell[0] == 0 == self.cameras.width % cell[1]
        require(fits, "cameras canvas", (self.cameras.height, self.cameras.width), f"use multiples of {tuple(cell)}")

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
        from lightwam.config import presets

        return presets.libero()

    @staticmethod
    def robotwin() -> LightWAMConfig:
        """The published RoboTwin 2.0 policy: three cameras, 14-d joint targets."""
        from lightwam.config import presets

        return presets.robotwin()

    @staticmethod
    def nano() -> LightWAMConfig:
        """The bundled small policy for LIBERO: same architecture, trained whole, words hashed instead of umT5."""
        from lightwam.config import presets

        return presets.nano()

    @staticmethod
    def from_published(mapping: Mapping[str, Any]) -> LightWAMConfig:
        """Read a configuration in the published field names; see `lightwam.config.published.from_published`."""
        from lightwam.config import published

        return published.from_published(mapping)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_dict` turns it back into an equal configuration."""
        return dataclass_to_dict(self)

    @staticmethod
    def from_dict(mapping: Mapping[str, Any]) -> LightWAMConfig:
        """Inverse of `to_dict`. Raises `ConfigError` on an unknown or missing field, a wrong type or a bad value."""
        if isinstance(mapping, Mapping) and "replan" in mapping and "replan_steps" not in mapping:  # its old name
            mapping = {"replan_steps" if name == "replan" else name: value for name, value in mapping.items()}
        return dataclass_from_dict(LightWAMConfig, mapping, "config")
