# SPDX-License-Identifier: Apache-2.0
"""Weights under the names that others publish: whole policies, the Wan2.1 video DiT, the Wan2.1 VAE.

Every loader checks every key and every shape before it writes a single tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lightwam.errors import CheckpointError
from lightwam.model.fit import expected_shapes, find_faults, refuse
from lightwam.model.names import dit_names, vae_names

if TYPE_CHECKING:
    from lightwam.model.vae import WanVAE
    from lightwam.model.world_action_model import LightWAM

GROUPS = ("mot", "state_fusion_action_expert", "proprio_encoder")
NOT_WEIGHTS = ("step", "torch_dtype")  # what a released file notes beside them
ADDED_TO_BACKBONE = ("lora_", "wam_adapters")  # parts of our DiT that no Wan2.1 file holds


def load_published(model: LightWAM, state_dict: Mapping[str, Any]) -> None:
    """Load a whole policy, the frozen backbone included.

    Args:
        model: receives the weights, converted to its own type and device.
        state_dict: either flat (`mot.mixtures.video...`, `state_fusion_action_expert...`, `proprio_encoder...`) or the
            nested dict of a released file: one state dict for each of those three names, beside `step` and
            `torch_dtype`.

    Raises:
        CheckpointError: where keys are missing, unknown, of another shape, or no tensors; names them.
    """
    load_exactly(model, flatten_published(state_dict), "checkpoint")


def flatten_published(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of a released file as flat names; a flat one passes unchanged.

    Whatever it holds beside its parts, `step` and `torch_dtype` stays under its own name, unknown to every network.
    """
    if not any(isinstance(state_dict.get(group), Mapping) for group in GROUPS):
        return dict(state_dict)
    absent = [group for group in GROUPS if not isinstance(state_dict.get(group), Mapping)]
    if absent:
        raise CheckpointError(f"checkpoint lacks the parts {absent}: a released file holds {list(GROUPS)}")
    more = {name: value for name, value in state_dict.items() if name not in (*GROUPS, *NOT_WEIGHTS)}
    parts = {name: value for name, value in more.items() if isinstance(value, Mapping)}
    flat = {f"{part}.{key}": value for part in (*GROUPS, *parts) for key, value in state_dict[part].items()}
    return {**flat, **{name: value for name, value in more.items() if name not in parts}}


def load_backbone(model: LightWAM, state_dict: Mapping[str, Any]) -> None:
    """Load a Wan2.1 video DiT, official or diffusers names; LoRA and adapters keep their values.

    Raises:
        CheckpointError: as `load_published`.
    """
    named = {name: state_dict[key] for key, name in dit_names(state_dict).items()}
    load_exactly(model.video_dit, named, "Wan2.1 DiT checkpoint", leave=ADDED_TO_BACKBONE)


def load_vae(vae: WanVAE, state_dict: Mapping[str, Any]) -> None:
    """Load a Wan2.1 VAE, official names (`model_state` is unwrapped, `model.` added where it is absent) or diffusers'.

    Raises:
        CheckpointError: as `load_published`.
    """
    inner = unwrap_vae(state_dict)
    load_exactly(vae, {name: inner[key] for key, name in vae_names(inner).items()}, "VAE checkpoint")


def unwrap_vae(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict inside `model_state`, or the one given where it has none. Raises `CheckpointError`."""
    inner = state_dict.get("model_state", state_dict)
    if not isinstance(inner, Mapping):
        raise CheckpointError(f"VAE checkpoint's model_state is a {type(inner).__name__}: it must be a state dict")
    return inner


def load_exactly(model: nn.Module, state_dict: Mapping[str, Any], what: str, leave: Iterable[str] = ()) -> None:
    """Copy `state_dict` into `model` if it holds exactly the model's keys and shapes.

    Args:
        model: its parameters keep their type and device.
        state_dict: name -> tensor.
        what: name of the checkpoint in errors.
        leave: parts of names; parameters whose names contain one of them are neither expected nor touched.

    Raises:
        CheckpointError: one line with up to four missing, unknown, wrongly shaped, integer and non-tensor keys each.
    """
    parts = tuple(leave)
    refuse(what, find_faults(expected_shapes(model, parts), state_dict))
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if not any(part in key for part in parts):
                value.copy_(state_dict[key])
