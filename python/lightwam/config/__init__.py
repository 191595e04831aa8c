# SPDX-License-Identifier: Apache-2.0
"""Every number of a Light-WAM policy, as frozen dataclasses; `LightWAMConfig` is the root.

Needs nothing but NumPy, so the runtime may import it.
"""

from lightwam.config.networks import (
    ActionExpertConfig,
    AdapterConfig,
    AttentionMask,
    FeatureSource,
    LoRAConfig,
    TextConfig,
    VAEConfig,
    VideoDiTConfig,
)
from lightwam.config.objectives import FlowMatchingConfig, LossConfig, TemporalWeighting, VideoConfig
from lightwam.config.policy import LightWAMConfig
from lightwam.config.read import read_config
from lightwam.config.robot import (
    FLIPS,
    Camera,
    CameraLayout,
    Dimension,
    GripperRule,
    NormalizationConfig,
    RobotConfig,
)

__all__ = [
    "FLIPS",
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
    "RobotConfig",
    "TemporalWeighting",
    "TextConfig",
    "VAEConfig",
    "VideoConfig",
    "VideoDiTConfig",
    "read_config",
]
