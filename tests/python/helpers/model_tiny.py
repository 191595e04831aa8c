# SPDX-License-Identifier: Apache-2.0
"""A tiny model with random parameters, and inputs for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from helpers.robots import numbered, with_robot
from lightwam.config import ActionExpertConfig, AdapterConfig, LightWAMConfig, LoRAConfig, VideoDiTConfig
from lightwam.model import LightWAM


def tiny(**expert: Any) -> LightWAMConfig:
    nano = LightWAMConfig.nano()
    dit = VideoDiTConfig(
        hidden_dim=48,
        ffn_dim=64,
        num_heads=2,
        head_dim=24,
        num_layers=4,
        adapters=AdapterConfig(layers=(0, 2), dim=8),
        lora=LoRAConfig(layers=(1, 3), modules=("self_attn.q", "cross_attn.o", "ffn.2"), rank=2, alpha=6.0),
        freq_dim=16,
        text_dim=20,
    )
    settings: dict[str, Any] = {
        "per_layer_dim": 12,
        "trunk_dim": 16,
        "step_pos_dim": 8,
        "num_queries": 3,
        "num_heads": 4,
    }
    config = replace(
        nano,
        video_dit=dit,
        text=replace(nano.text, width=20),
        action_expert=ActionExpertConfig(**{**settings, **expert}),
    )
    return with_robot(config, state=numbered(14), action=numbered(14), gripper=None)


def build(config: LightWAMConfig) -> LightWAM:
    """A model with every parameter random, so that fresh zeros hide nothing."""
    torch.manual_seed(0)
    model = LightWAM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def example(model: LightWAM, batch: int = 2, rows: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "latents": torch.randn(batch, 16, 1, 4, 8, generator=generator),
        "context": torch.randn(batch, rows, 20, generator=generator),
        "context_mask": torch.ones(batch, rows, dtype=torch.bool),
        "proprio": torch.randn(batch, model.config.state_dim, generator=generator),
    }


def example_batch(model: LightWAM) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    inputs = example(model)
    return {
        "video_latents": torch.randn(2, 16, 2, 4, 8, generator=generator),
        "action": torch.randn(2, 16, 14, generator=generator),
        "proprio": torch.randn(2, 16, 14, generator=generator),
        "context": inputs["context"],
        "context_mask": inputs["context_mask"],
        "image_is_pad": torch.zeros(2, 5, dtype=torch.bool),
        "action_is_pad": torch.zeros(2, 16, dtype=torch.bool),
    }
