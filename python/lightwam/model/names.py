# SPDX-License-Identifier: Apache-2.0
"""Key maps: the names that others give to Wan2.1's weights -> ours, which are the published ones.

Each function maps a whole set of names at once (some files can be told apart only by what else they hold) and leaves
a name that it does not know as it is, so that the one who checks the set can report it. Source:
docs/reference/light-wam.md, section 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lightwam.errors import CheckpointError

_GROUPS = ("mot", "state_fusion_action_expert", "proprio_encoder")  # the parts of a released file
_NOT_WEIGHTS = ("step", "torch_dtype")  # what it notes beside them
_DIT_OF_DIFFUSERS = (
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

_VAE_OF_DIFFUSERS = (
    ("quant_conv.", "conv1."),
    ("post_quant_conv.", "conv2."),
    ("encoder.conv_in.", "encoder.conv1."),
    ("decoder.conv_in.", "decoder.conv1."),
    ("encoder.norm_out.", "encoder.head.0."),
    ("decoder.norm_out.", "decoder.head.0."),
    ("encoder.conv_out.", "encoder.head.2."),
    ("decoder.conv_out.", "decoder.head.2."),
)
_VAE_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_VAE_BLOCK_OF_DIFFUSERS = (
    (".norm1.", ".residual.0."),
    (".conv1.", ".residual.2."),
    (".norm2.", ".residual.3."),
    (".conv2.", ".residual.6."),
    (".conv_shortcut.", ".shortcut."),
)
_UP_BLOCK = re.compile(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.(.+)")

UMT5_TABLE, UMT5_TIED = "shared.weight", "encoder.embed_tokens.weight"
_UMT5_OF_OFFICIAL = (
    ("token_embedding.weight", UMT5_TABLE),
    ("blocks.", "encoder.block."),
    (".norm1.", ".layer.0.layer_norm."),
    (".norm2.", ".layer.1.layer_norm."),
    (".attn.", ".layer.0.SelfAttention."),
    (".pos_embedding.embedding.", ".layer.0.SelfAttention.relative_attention_bias."),
    (".ffn.gate.0.", ".layer.1.DenseReluDense.wi_0."),
    (".ffn.fc1.", ".layer.1.DenseReluDense.wi_1."),
    (".ffn.fc2.", ".layer.1.DenseReluDense.wo."),
)


def flatten_published(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of a released file as flat names; a flat one passes unchanged.

    Whatever it holds beside its parts, `step` and `torch_dtype` stays under its own name, unknown to every network.
    """
    if not any(isinstance(state_dict.get(group), Mapping) for group in _GROUPS):
        return dict(state_dict)
    absent = [group for group in _GROUPS if not isinstance(state_dict.get(group), Mapping)]
    if absent:
        raise CheckpointError(f"checkpoint lacks the parts {absent}: a released file holds {list(_GROUPS)}")
    more = {name: value for name, value in state_dict.items() if name not in (*_GROUPS, *_NOT_WEIGHTS)}
    parts = {name: value for name, value in more.items() if isinstance(value, Mapping)}
    flat = {f"{part}.{key}": value for part in (*_GROUPS, *parts) for key, value in state_dict[part].items()}
    return {**flat, **{name: value for name, value in more.items() if name not in parts}}


def dit_names(keys: Iterable[str]) -> dict[str, str]:
    """Official (with or without a leading `model.`) or diffusers names of the video DiT -> ours."""
    given = list(keys)
    diffusers = any(key.startswith("condition_embedder.") for key in given)
    named = {key: key.removeprefix("model.") for key in given}
    return {key: _dit_of_diffusers(name) if diffusers else name for key, name in named.items()}


def _dit_of_diffusers(name: str) -> str:
    return "head.modulation" if name == "scale_shift_table" else _replaced(name, _DIT_OF_DIFFUSERS)


def vae_names(keys: Iterable[str]) -> dict[str, str]:
    """Official (with or without a leading `model.`) or diffusers names of the VAE -> ours, `model.*`."""
    given = list(keys)
    named = {key: key.removeprefix("model.") for key in given}
    if any(name.startswith(("quant_conv.", "encoder.conv_in.")) for name in named.values()):
        ups = [match for match in map(_UP_BLOCK.fullmatch, named.values()) if match and match[2] == "resnets"]
        blocks = 1 + max((int(match[3]) for match in ups), default=0)
        named = {key: _vae_of_diffusers(name, blocks) for key, name in named.items()}
    return {key: f"model.{name}" for key, name in named.items()}


def _vae_of_diffusers(name: str, blocks_per_level: int) -> str:
    """Our decoder counts the residual blocks and the up-sampling of all levels in one list, the encoder's likewise."""
    for theirs, ours in _VAE_OF_DIFFUSERS:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    if match := _UP_BLOCK.fullmatch(name):
        place = int(match[3]) if match[2] == "resnets" else blocks_per_level
        name = f"decoder.upsamples.{int(match[1]) * (blocks_per_level + 1) + place}.{match[4]}"
    half, _, rest = name.partition(".mid_block.")
    for theirs, ours in _VAE_MIDDLE.items():
        if rest.startswith(theirs + "."):
            name = f"{half}.middle.{ours}.{rest.removeprefix(theirs + '.')}"
    name = name.replace("encoder.down_blocks.", "encoder.downsamples.")
    return _replaced(name, _VAE_BLOCK_OF_DIFFUSERS)


def umt5_names(keys: Iterable[str]) -> dict[str, str]:
    """Official names of the umT5 encoder, or those of transformers -> the latter.

    The one exception to the rule above: transformers may store its token table twice; then the second is left out.
    """
    given = list(keys)
    if not any(key.startswith("encoder.") for key in given):
        return {key: _umt5_of_official(key) for key in given}
    if UMT5_TIED in given and UMT5_TABLE in given:
        given.remove(UMT5_TIED)
    return {key: UMT5_TABLE if key == UMT5_TIED else key for key in given}


def _umt5_of_official(name: str) -> str:
    return "encoder.final_layer_norm.weight" if name == "norm.weight" else _replaced(name, _UMT5_OF_OFFICIAL)


def _replaced(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for theirs, ours in pairs:
        name = name.replace(theirs, ours)
    return name
