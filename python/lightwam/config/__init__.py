# SPDX-License-Identifier: Apache-2.0
"""Every number of a Light-WAM policy, as frozen dataclasses; `LightWAMConfig` is the root.

Needs nothing but the standard library, so the runtime may import it.
"""

from lightwam.config.data import (
    NORMALIZATION_MODES,
    Camera,
    CameraLayout,
    NormalizationConfig,
)
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
from lightwam.config.policy import (
    FlowMatchingConfig,
    GripperRule,
    LightWAMConfig,
    LossConfig,
    TemporalWeighting,
    VideoConfig,
)

__all__ = [
    "FEATURE_SOURCES",
    "LIBERO_PROMPT",
    "LORA_MODULES",
    "NORMALIZATION_MODES",
    "WAN_LATENT_MEAN",
    "WAN_LATENT_STD",
    "ActionExpertConfig",
    "AdapterConfig",
    "AttentionMask",
    "Camera",
    "CameraLayout",
    "FeatureSource",
    "FlowMatchingConfig",
    "GripperRule",
    "LightWAMConfig",
    "LoRAConfig",
    "LossConfig",
    "NormalizationConfig",
    "Pooling",
    "TemporalWeighting",
    "TextConfig",
    "TextEncoderKind",
    "VAEConfig",
    "VideoConfig",
    "VideoDiTConfig",
]
