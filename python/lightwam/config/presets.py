# SPDX-License-Identifier: Apache-2.0
"""The named configurations behind `LightWAMConfig.libero()`, `.robotwin()` and `.nano()`."""

from __future__ import annotations

from lightwam.config import (
    ActionExpertConfig,
    AdapterConfig,
    Camera,
    CameraLayout,
    LightWAMConfig,
    LoRAConfig,
    LossConfig,
    NormalizationConfig,
    TemporalWeighting,
    TextConfig,
    VAEConfig,
    VideoConfig,
    VideoDiTConfig,
)


def libero_cameras(size: int = 224) -> CameraLayout:
    """Agent view left, wrist right, `size` pixels square each; LIBERO's images are upside down, hence the flips."""
    names = ("agentview", "wrist")
    squares = (Camera(name, 0, i * size, size, size, True, True) for i, name in enumerate(names))
    return CameraLayout(size, 2 * size, tuple(squares))


def robotwin_cameras() -> CameraLayout:
    """Head camera on top (256 x 320), the two wrists (128 x 160 each) below it."""
    wrists = (Camera("left", 256, 0, 128, 160), Camera("right", 256, 160, 128, 160))
    return CameraLayout(384, 320, (Camera("head", 0, 0, 256, 320), *wrists))


def _full_size_dit() -> VideoDiTConfig:
    return VideoDiTConfig(
        hidden_dim=1536,
        ffn_dim=8960,
        num_heads=12,
        head_dim=128,
        num_layers=30,
        adapters=AdapterConfig(layers=(8, 16, 24), dim=256),
        lora=LoRAConfig(layers=tuple(range(30))),
    )


def libero() -> LightWAMConfig:
    """See `LightWAMConfig.libero`. The loss weights are those of the LIBERO recipes (8 supervised steps)."""
    return LightWAMConfig(
        name="libero",
        video_dit=_full_size_dit(),
        action_expert=ActionExpertConfig(per_layer_dim=4608, trunk_dim=6144),
        vae=VAEConfig(),
        text=TextConfig(),
        cameras=libero_cameras(),
        state_dim=8,
        action_dim=7,
        horizon=32,
        replan_steps=10,
        gripper="libero",
        loss=LossConfig(temporal_weighting=TemporalWeighting(prefix_steps=8)),
    )


def robotwin() -> LightWAMConfig:
    """See `LightWAMConfig.robotwin`. The loss weights are those of the RoboTwin recipe (24 supervised steps)."""
    return LightWAMConfig(
        name="robotwin",
        video_dit=_full_size_dit(),
        action_expert=ActionExpertConfig(per_layer_dim=4608, trunk_dim=6144),
        vae=VAEConfig(),
        text=TextConfig(),
        cameras=robotwin_cameras(),
        state_dim=14,
        action_dim=14,
        horizon=32,
        replan_steps=24,
        normalization=NormalizationConfig(state="z-score", action="z-score"),
        loss=LossConfig(temporal_weighting=TemporalWeighting(prefix_steps=24)),
    )


def nano() -> LightWAMConfig:
    """See `LightWAMConfig.nano`. The VAE's latent statistics are placeholders until its training has measured them."""
    text_width = 64
    return LightWAMConfig(
        name="nano",
        video_dit=VideoDiTConfig(
            hidden_dim=192,
            ffn_dim=768,
            num_heads=6,
            head_dim=32,
            num_layers=6,
            adapters=AdapterConfig(layers=(1, 3, 4), dim=64),
            freq_dim=64,
            text_dim=text_width,
            train_backbone=True,
        ),
        action_expert=ActionExpertConfig(per_layer_dim=256, trunk_dim=384, step_pos_dim=64, num_heads=6),
        vae=VAEConfig(base_dim=8, num_res_blocks=1, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16),
        text=TextConfig(kind="hashed_words", length=24, width=text_width, prompt_template="{task}", buckets=1024),
        cameras=libero_cameras(128),
        state_dim=8,
        action_dim=7,
        horizon=16,
        replan_steps=4,
        gripper="libero",
        loss=LossConfig(lambda_video=0.2, temporal_weighting=TemporalWeighting(prefix_steps=8, tail_weight=0.25)),
        video=VideoConfig(num_frames=5, stride=4, spatial_downsample=2),
    )
