# SPDX-License-Identifier: Apache-2.0
"""Every number of a Light-WAM policy, as frozen dataclasses; `LightWAMConfig` is the root.

Needs nothing but NumPy, so the runtime may import it.
"""

from lightwam.config.networks import (
    FEATURE_SOURCES,
    LIBERO_PROMPT,
    LORA_MODULES,
    WAN_LATENT_MEAN,
    WAN_LATENT_STD,
    ActionExpertConfig,
    AdapterConfig,
    AttentionMask,
    FeatureSource,
    LoRAConfig,
    Pooling,
    TextConfig,
    TextEncoderKind,
    VAEConfig,
    VideoDiTConfig,
)
from lightwam.config.objectives import FlowMatchingConfig, LossConfig, TemporalWeighting, VideoConfig
from lightwam.config.policy import LightWAMConfig
from lightwam.config.read import PRESETS, read_config
from lightwam.config.robot import (
    FLIPS,
    NORMALIZATION_MODES,
    UNITS,
    Camera,
    CameraLayout,
    Dimension,
    GripperRule,
    NormalizationConfig,
    Orientation,
    RobotConfig,
)

__all__ = [
    "FEATURE_SOURCES",
    "FLIPS",
    "LIBERO_PROMPT",
    "LORA_MODULES",
    "NORMALIZATION_MODES",
    "PRESETS",
    "UNITS",
    "WAN_LATENT_MEAN",
    "WAN_LATENT_STD",
    "ActionExpertConfig",
    "AdapterConfig",
    "AttentionMask",
    "Camera",
    "CameraLayout",
    "Dimension",
    "FeatureSource",
    "FlowMatchingConfig",
    "GripperRule",
    "LightWAMConfig",
    "LoRAConfig",
    "LossConfig",
    "NormalizationConfig",
    "Orientation",
    "Pooling",
    "RobotConfig",
    "TemporalWeighting",
    "TextConfig",
    "TextEncoderKind",
    "VAEConfig",
    "VideoConfig",
    "VideoDiTConfig",
    "read_config",
]
