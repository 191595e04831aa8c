# SPDX-License-Identifier: Apache-2.0
"""Parts of a policy under the names that others publish: the Wan2.1 video DiT and the Wan2.1 VAE.

Every loader checks every key and every shape before it writes a single tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightwam.model.fit import load_exactly
from lightwam.model.names import dit_names, unwrap_vae, vae_names
from lightwam.model.vae import WanVAE
from lightwam.model.world_action_model import LightWAM

ADDED_TO_BACKBONE = ("lora_", "wam_adapters")  # parts of our DiT that no Wan2.1 file holds


def load_backbone(model: LightWAM, state_dict: Mapping[str, Any]) -> None:
    """Load a Wan2.1 video DiT, official or diffusers names; LoRA and adapters keep their values.

    Raises:
        CheckpointError: as `LightWAM.load_published`.
    """
    named = {name: state_dict[key] for key, name in dit_names(state_dict).items()}
    load_exactly(model.video_dit, named, "Wan2.1 DiT checkpoint", leave=ADDED_TO_BACKBONE)


def load_vae(vae: WanVAE, state_dict: Mapping[str, Any]) -> None:
    """Load a Wan2.1 VAE, official names (`model_state` is unwrapped, `model.` added where it is absent) or diffusers'.

    Raises:
        CheckpointError: as `LightWAM.load_published`.
    """
    inner = unwrap_vae(state_dict)
    load_exactly(vae, {name: inner[key] for key, name in vae_names(inner).items()}, "VAE checkpoint")
