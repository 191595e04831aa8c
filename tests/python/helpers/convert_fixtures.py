# SPDX-License-Identifier: Apache-2.0
"""A small policy with umT5 text, its weights, and the same weights in the form that others publish them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.robots import with_square_cameras
from lightwam.config import AdapterConfig, LightWAMConfig, LoRAConfig, TextConfig, VAEConfig, VideoDiTConfig
from lightwam.convert.checkpoint import ConvertArgs
from lightwam.export.weights import RandomWeights
from lightwam.model import LightWAM, WanVAE
from lightwam.model.fit import expected_shapes, on_meta

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
GROUPS = ("mot", "state_fusion_action_expert", "proprio_encoder")
DIT = VideoDiTConfig(
    hidden_dim=48, ffn_dim=64, num_heads=2, head_dim=24, num_layers=3,
    adapters=AdapterConfig(layers=(1,), dim=8), lora=LoRAConfig(layers=(0, 2), rank=2),
    freq_dim=16, text_dim=20, attention_mask="bidirectional",
)  # fmt: skip
TEXT = TextConfig(
    length=12, width=20, vocab=40, attention_dim=16, ffn_dim=24, num_heads=2, num_layers=2,
    position_buckets=8, max_distance=16,
)  # fmt: skip
VAE = VAEConfig(base_dim=8, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16)


@cache
def small_config() -> LightWAMConfig:
    """Nano's cameras (32 x 64) and expert around a DiT and a VAE that diffusers can build as well."""
    nano = LightWAMConfig.nano()
    expert = replace(nano.action_expert, num_heads=2, per_layer_dim=24, trunk_dim=32)
    small = replace(nano, name="small", video_dit=DIT, action_expert=expert, vae=VAE, text=TEXT)
    return with_square_cameras(small, 32)


def random_weights(module: Any, prefix: str = "", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Sane random weights of a module, under their names."""
    made = RandomWeights(0)
    return {name: made.get(prefix + name, shape).to(dtype) for name, shape in expected_shapes(module).items()}


@cache
def _policy_weights(config: LightWAMConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    return random_weights(on_meta(lambda: LightWAM(config)), dtype=dtype)


def policy_weights(config: LightWAMConfig, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Weights of a policy, for the caller to change."""
    return {name: value.clone() for name, value in _policy_weights(config, dtype).items()}


@cache
def _vae_weights(config: LightWAMConfig) -> dict[str, Tensor]:
    return random_weights(on_meta(lambda: WanVAE(config.vae)), "vae.")


def vae_weights(config: LightWAMConfig) -> dict[str, Tensor]:
    """Weights of its VAE, for the caller to change."""
    return {name: value.clone() for name, value in _vae_weights(config).items()}


def published(weights: dict[str, Tensor]) -> dict[str, Any]:
    """The nested form of a released file."""
    nested: dict[str, Any] = {group: {} for group in GROUPS}
    for name, value in weights.items():
        group, _, key = name.partition(".")
        nested[group][key] = value
    return {**nested, "step": 7, "torch_dtype": torch.bfloat16}


def statistics(config: LightWAMConfig) -> dict[str, Any]:
    """A statistics file's content."""
    numbers = {name: float(place) for place, name in enumerate(("min", "q01", "mean", "q99", "max", "std"))}
    widths = {"state": config.state_dim, "action": config.action_dim}
    return {
        field: {"default": {f"{kind}_{k}": [v] * width for kind in ("global", "stepwise") for k, v in numbers.items()}}
        for field, width in widths.items()
    }


@cache
def _released() -> dict[str, bytes]:
    """Released files of the small policy by name."""
    config, policy, vae = small_config(), io.BytesIO(), io.BytesIO()
    torch.save(published(policy_weights(config)), policy)
    torch.save({name.removeprefix("model."): value for name, value in vae_weights(config).items()}, vae)
    documents = {"config.json": config.to_dict(), "stats.json": statistics(config)}
    texts = {name: json.dumps(document).encode() for name, document in documents.items()}
    return {**texts, "policy.pt": policy.getvalue(), "vae.pth": vae.getvalue()}


def inputs(folder: Path) -> ConvertArgs:
    """Released files of the small policy in `folder`, and the arguments that convert them."""
    for name, content in _released().items():
        (folder / name).write_bytes(content)
    return ConvertArgs(
        out=folder / "out", config=str(folder / "config.json"), policy=folder / "policy.pt",
        vae=folder / "vae.pth", stats=folder / "stats.json",
    )  # fmt: skip
