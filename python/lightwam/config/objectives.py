# SPDX-License-Identifier: Apache-2.0
"""What a policy learns, as frozen dataclasses: flow matching, losses, the future-video window."""

from __future__ import annotations

from dataclasses import dataclass

from lightwam.config.checks import require, require_positive


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

    def supervised_steps(self, horizon: int) -> int:
        """How many of the first steps of a chunk can have a weight in the action loss."""
        weighting = self.temporal_weighting
        if weighting is None or weighting.tail_weight > 0 or weighting.prefix_steps == 0:
            return horizon
        return min(weighting.prefix_steps, horizon)


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
