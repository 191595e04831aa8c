# SPDX-License-Identifier: Apache-2.0
"""What shapes do not tell: the settings in a folder's `config.json` beside those of the configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightwam.config import LightWAMConfig, TextConfig, VAEConfig, VideoDiTConfig
from lightwam.convert.sources import WeightsSource
from lightwam.errors import CheckpointError


def check_settings(source: WeightsSource, config: LightWAMConfig, part: str) -> None:
    """Raise `CheckpointError` if the source's `config.json` contradicts `part` ('dit', 'vae', 'text') of `config`.

    Settings that the file does not name are not checked, nor those that change the shape of a weight.
    """
    wanted = {"dit": _dit(config.video_dit), "vae": _vae(config.vae), "text": _text(config.text)}[part]
    for name, ours in wanted.items():
        theirs = source.settings.get(name, ours)
        if not _equal(theirs, ours):
            raise CheckpointError(
                f"{source.path}: config.json says {name} {theirs!r}, the configuration {ours!r}: "
                "choose a --config of the same network"
            )


def _equal(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, list | tuple) and isinstance(ours, list | tuple):
        return len(theirs) == len(ours) and all(map(_equal, theirs, ours))
    if isinstance(theirs, float | int) and isinstance(ours, float | int):
        return math.isclose(theirs, ours, rel_tol=1e-6)
    return bool(theirs == ours)


def _dit(dit: VideoDiTConfig) -> Mapping[str, Any]:
    """Names of diffusers' transformer and of the official file."""
    return {
        "num_attention_heads": dit.num_heads,
        "num_heads": dit.num_heads,
        "attention_head_dim": dit.head_dim,
        "freq_dim": dit.freq_dim,
        "patch_size": list(dit.patch_size),
        "eps": dit.eps,
        "qk_norm": "rms_norm_across_heads",
        "cross_attn_norm": True,
        "image_dim": None,
        "added_kv_proj_dim": None,
        "model_type": "t2v",
    }


def _vae(vae: VAEConfig) -> Mapping[str, Any]:
    return {
        "dim_mult": list(vae.multipliers),
        "num_res_blocks": vae.num_res_blocks,
        "temperal_downsample": list(vae.temporal_downsample),
        "latents_mean": list(vae.latent_mean),
        "latents_std": list(vae.latent_std),
        "is_residual": False,
        "attn_scales": [],
        "patch_size": None,
    }


def _text(text: TextConfig) -> Mapping[str, Any]:
    return {
        "num_heads": text.num_heads,
        "d_kv": text.attention_dim // text.num_heads,
        "num_layers": text.num_layers,
        "relative_attention_num_buckets": text.position_buckets,
        "relative_attention_max_distance": text.max_distance,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
    }
