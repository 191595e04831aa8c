# SPDX-License-Identifier: Apache-2.0
"""Networks with weights under the names that others publish: the Wan2.1 video DiT, its VAE, umT5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightwam.model import LightWAM, UMT5Encoder, WanVAE
from lightwam.model.fit import load_exactly
from lightwam.model.names import UMT5_TIED, dit_names, umt5_names, vae_names
from lightwam.model.unwrap import unwrap

ADDED_TO_BACKBONE = ("lora_", "wam_adapters")  # parts of our DiT that no Wan2.1 file holds


def load_backbone(model: LightWAM, state_dict: Mapping[str, Any]) -> None:
    """Official or diffusers names; LoRA and adapters keep their values."""
    named = {name: state_dict[key] for key, name in dit_names(state_dict).items()}
    load_exactly(model.video_dit, named, "Wan2.1 DiT checkpoint", leave=ADDED_TO_BACKBONE)


def load_vae(vae: WanVAE, state_dict: Mapping[str, Any]) -> None:
    """Official or diffusers names."""
    inner = unwrap("VAE", state_dict, "vae").content
    load_exactly(vae, {name: inner[key] for key, name in vae_names(inner).items()}, "VAE checkpoint")


def load_umt5(encoder: UMT5Encoder, state_dict: Mapping[str, Any]) -> UMT5Encoder:
    """Official names, or those of transformers."""
    named = {name: state_dict[key] for key, name in umt5_names(state_dict).items()}
    load_exactly(encoder.encoder, named, "umT5 checkpoint", leave=(UMT5_TIED,))
    return encoder
