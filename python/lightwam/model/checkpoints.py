# SPDX-License-Identifier: Apache-2.0
"""Weights under the names that others publish: whole policies, the Wan2.1 video DiT, the Wan2.1 VAE.

Every loader checks every key and every shape before it writes a single tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightwam.errors import CheckpointError

if TYPE_CHECKING:
    from lightwam.model.vae import WanVAE
    from lightwam.model.world_action_model import LightWAM

GROUPS = ("mot", "state_fusion_action_expert", "proprio_encoder")
_ADDED_TO_BACKBONE = ("lora_", "wam_adapters")  # parts of our DiT that no Wan2.1 file holds

_DIFFUSERS_NAMES = (
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("proj_out.", "head.head."),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".o."),
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".norm2.", ".norm3."),
    (".scale_shift_table", ".modulation"),
)


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
    """The nested dict of a released file as flat names; a flat one passes unchanged."""
    if not any(isinstance(state_dict.get(group), Mapping) for group in GROUPS):
        return dict(state_dict)
    absent = [group for group in GROUPS if not isinstance(state_dict.get(group), Mapping)]
    if absent:
        raise CheckpointError(f"checkpoint lacks the parts {absent}: a released file holds {list(GROUPS)}")
    return {f"{group}.{key}": value for group in GROUPS for key, value in state_dict[group].items()}


def load_backbone(model: LightWAM, state_dict: Mapping[str, Any]) -> None:
    """Load a Wan2.1 video DiT, official or diffusers names; LoRA and adapters keep their values.

    Raises:
        CheckpointError: as `load_published`.
    """
    named = {}
    diffusers = any(key.startswith("condition_embedder.") for key in state_dict)
    for key, value in state_dict.items():
        name = key.removeprefix("model.")
        named[_from_diffusers(name) if diffusers else name] = value
    load_exactly(model.video_dit, named, "Wan2.1 DiT checkpoint", leave=_ADDED_TO_BACKBONE)


def _from_diffusers(key: str) -> str:
    if key == "scale_shift_table":
        return "head.modulation"
    for theirs, ours in _DIFFUSERS_NAMES:
        key = key.replace(theirs, ours)
    return key


def load_vae(vae: WanVAE, state_dict: Mapping[str, Any]) -> None:
    """Load an official Wan2.1 VAE file: `model_state` is unwrapped, the prefix `model.` added where it is absent.

    Raises:
        CheckpointError: as `load_published`.
    """
    inner = state_dict.get("model_state", state_dict)
    if not isinstance(inner, Mapping):
        raise CheckpointError(f"VAE checkpoint's model_state is a {type(inner).__name__}: it must be a state dict")
    load_exactly(vae, {f"model.{key.removeprefix('model.')}": value for key, value in inner.items()}, "VAE checkpoint")


def load_exactly(model: nn.Module, state_dict: Mapping[str, Any], what: str, leave: Iterable[str] = ()) -> None:
    """Copy `state_dict` into `model` if it holds exactly the model's keys and shapes.

    Args:
        model: its parameters keep their type and device.
        state_dict: name -> tensor.
        what: name of the checkpoint in errors.
        leave: parts of names; parameters whose names contain one of them are neither expected nor touched.

    Raises:
        CheckpointError: one line with up to four missing, unknown, wrongly shaped and non-tensor keys each.
    """
    expected = {k: v for k, v in model.state_dict().items() if not any(part in k for part in leave)}
    no_tensor = [f"{k} ({type(v).__name__})" for k, v in state_dict.items() if not isinstance(v, Tensor)]
    wrong = [
        f"{k} {list(state_dict[k].shape)} instead of {list(v.shape)}"
        for k, v in expected.items()
        if isinstance(state_dict.get(k), Tensor) and state_dict[k].shape != v.shape
    ]
    faults = {
        "missing": [k for k in expected if k not in state_dict],
        "unknown": [k for k in state_dict if k not in expected],
        "wrong shape": wrong,
        "not a tensor": no_tensor,
    }
    found = [f"{len(keys)} {fault}: {_some(keys)}" for fault, keys in faults.items() if keys]
    if found:
        raise CheckpointError(f"{what} does not fit the configuration; {'; '.join(found)}")
    with torch.no_grad():
        for key, value in expected.items():
            value.copy_(state_dict[key])


def _some(keys: list[str], most: int = 4) -> str:
    return ", ".join(keys[:most]) + (", ..." if len(keys) > most else "")
