# SPDX-License-Identifier: Apache-2.0
"""Translation of a configuration in the published field names into the parts of a `LightWAMConfig`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightwam.config.checks import LARGEST_SIZE, as_float
from lightwam.config.networks import LORA_MODULES, ActionExpertConfig, FeatureSource, VAEConfig, VideoDiTConfig
from lightwam.config.objectives import FlowMatchingConfig, LossConfig, VideoConfig
from lightwam.config.serialize import dataclass_from_dict
from lightwam.errors import ConfigError
from lightwam.files import short

_SOURCE_NAMES: dict[str, FeatureSource] = {
    **dict.fromkeys(("h", "backbone", "base", "frozen"), "backbone"),
    **dict.fromkeys(("h_prime", "hprime", "h'", "adapted", "adapter"), "adapted"),
    "delta": "delta",
}
_LORA_NAMES: dict[str, tuple[str, ...]] = {
    **{module: (module,) for module in LORA_MODULES},
    **dict.fromkeys(("ffn", "mlp"), ("ffn.0", "ffn.2")),
    "ffn_in": ("ffn.0",),
    "ffn_out": ("ffn.2",),
}
# Published switches of which one position is supported.
_FIXED_FIELDS: dict[str, object] = {
    "has_image_input": False,
    "has_image_pos_emb": False,
    "has_ref_conv": False,
    "add_control_adapter": False,
    "seperated_timestep": True,
    "require_clip_embedding": False,
    "require_vae_embedding": False,
    "fuse_vae_embedding_in_latents": True,
    "action_conditioned": False,
    "use_wam_adapter": True,
}
# Published fields that change nothing while the switches above stand as they do.
_INERT_FIELDS = {"use_gradient_checkpointing", "action_dim", "action_group_causal_mask_mode", "in_dim_control_adapter"}
_SECTIONS = ("video_dit_config", "state_fusion_action_expert_config", "action_temporal_weighting", "scheduler")
_DEFAULT_ADAPTER_DEPTHS = (0.55, 0.70, 0.85, 1.0)  # where adapters go when the published file names no layers


def published_parts(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """What the published fields (`video_dit_config`, ...) say, by the names of `LightWAMConfig`'s fields.

    Beside them `state_dim` and `action_dim`. Absent: the robot, the text encoder, and `horizon` where it is not given.
    A latent width other than 16 gets latent statistics 0 and 1. Unknown fields of the two network sections are errors;
    further top-level fields (recorded losses, versions, paths) define no network and are left alone.

    Raises:
        ConfigError: a field that is missing, bad or unknown.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"published configuration is a {type(mapping).__name__}: give a mapping of its fields")
    for name in ("video_dit_config", "state_fusion_action_expert_config", "action_dim", "proprio_dim"):
        if mapping.get(name) is None:
            raise ConfigError(f"published configuration has no {name}: it must be given")
    for name in _SECTIONS:
        if mapping.get(name) is not None and not isinstance(mapping[name], Mapping):
            raise ConfigError(f"{name} is {short(mapping[name])}: give a mapping of its fields")
    dit = _video_dit(mapping["video_dit_config"])
    scheduler = mapping.get("scheduler") or {}
    parts = {
        "name": str(mapping.get("name", "published")),
        "state_dim": _whole(mapping, "proprio_dim"),
        "action_dim": _whole(mapping, "action_dim"),
        "video_dit": dit,
        "action_expert": _action_expert(mapping["state_fusion_action_expert_config"]),
        "vae": _vae(mapping, dit),
        "flow_matching": FlowMatchingConfig(
            shift=_number(scheduler, "shift", 5.0), num_train_timesteps=_whole(scheduler, "num_train_timesteps", 1000)
        ),
        "loss": _loss(mapping),
        "video": VideoConfig(
            spatial_downsample=_whole(mapping, "video_latent_spatial_downsample_factor", 1),
            downsample_action_pass=bool(mapping.get("apply_video_latent_downsample_to_action_branch", False)),
        ),
    }
    return parts if mapping.get("action_horizon") is None else {**parts, "horizon": _whole(mapping, "action_horizon")}


def _number(mapping: Mapping[str, Any], name: str, default: float) -> float:
    """A number; absent or None means the default."""
    value = default if mapping.get(name) is None else mapping[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name} is {short(value)}: give a number")
    return as_float(value, name)


def _whole(mapping: Mapping[str, Any], name: str, default: int = 0) -> int:
    """A whole number from 1 to `LARGEST_SIZE`; absent or None means the default."""
    value = _number(mapping, name, default)
    if not (1 <= value <= LARGEST_SIZE and value.is_integer()):
        raise ConfigError(f"{name} is {short(mapping[name])}: give a whole number from 1 to {LARGEST_SIZE}")
    return int(value)


def _video_dit(section: Mapping[str, Any]) -> VideoDiTConfig:
    where = "video_dit_config"
    fields = dict(section)
    for name, only in _FIXED_FIELDS.items():
        if fields.pop(name, only) != only:
            raise ConfigError(f"{where}.{name} is {short(section[name])}: only {only!r} is supported")
    for name in _INERT_FIELDS:
        fields.pop(name, None)
    num_layers = fields.get("num_layers")
    if not isinstance(num_layers, int) or not 1 <= num_layers <= LARGEST_SIZE:
        raise ConfigError(f"{where}.num_layers is {short(num_layers)}: give the number of blocks")
    adapters = {
        "layers": _layers(fields.pop("adapter_layer_indices", None), num_layers, f"{where}.adapter_layer_indices"),
        "dim": fields.pop("adapter_dim", 128),
        "scale": fields.pop("adapter_scale", 1.0),
    }
    use_lora = fields.pop("use_backbone_lora", False)
    lora_layers, lora_modules = fields.pop("lora_layer_indices", None), fields.pop("lora_target_modules", None)
    lora = {
        "layers": _layers(
            adapters["layers"] if lora_layers is None else lora_layers, num_layers, f"{where}.lora_layer_indices"
        ),
        "modules": _lora_modules(("ffn",) if lora_modules is None else lora_modules),
        "rank": fields.pop("lora_rank", 16),
        "alpha": fields.pop("lora_alpha", 16.0),
        "dropout": fields.pop("lora_dropout", 0.0),
    }
    fields["head_dim"] = fields.pop("attn_head_dim", None)
    fields["attention_mask"] = fields.pop("video_attention_mask_mode", "bidirectional")
    return dataclass_from_dict(
        VideoDiTConfig, {**fields, "adapters": adapters, "lora": lora if use_lora else None}, where
    )


def _layers(layers: Iterable[int] | None, num_layers: int, where: str) -> list[int]:
    """Sorted, each once; nothing given means the published default depths."""
    if layers is not None and not isinstance(layers, Iterable):
        raise ConfigError(f"{where} is {short(layers)}: give block numbers")
    chosen = list(layers or ()) or [round((num_layers - 1) * depth) for depth in _DEFAULT_ADAPTER_DEPTHS]
    if not all(isinstance(layer, int) for layer in chosen):
        raise ConfigError(f"{where} is {short(layers)}: give block numbers")
    return sorted(set(chosen))


def _names(spec: Iterable[str] | str) -> list[str]:
    """A list of names, or one string with commas, to trimmed lower-case names."""
    if not isinstance(spec, Iterable):
        raise ConfigError(f"{short(spec)} stands where names are wanted: give a list of names")
    parts = spec.split(",") if isinstance(spec, str) else spec
    return [str(part).strip().lower() for part in parts if part is not None and str(part).strip()]


def _lora_modules(spec: Iterable[str] | str) -> list[str]:
    modules: dict[str, None] = {}
    for name in _names(spec):
        if name not in _LORA_NAMES:
            raise ConfigError(f"lora_target_modules names {name!r}: use names out of {sorted(_LORA_NAMES)}")
        modules.update(dict.fromkeys(_LORA_NAMES[name]))
    return list(modules)


def _sources(spec: Iterable[str] | str) -> list[FeatureSource]:
    sources: dict[FeatureSource, None] = {}
    for name in _names(spec):
        if name not in _SOURCE_NAMES:
            raise ConfigError(f"feature sources name {name!r}: use names out of {sorted(_SOURCE_NAMES)}")
        sources[_SOURCE_NAMES[name]] = None
    return list(sources)


def _action_expert(section: Mapping[str, Any]) -> ActionExpertConfig:
    fields = dict(section)
    layer_sources = fields.pop("layer_feature_sources", None)
    if layer_sources is not None and not isinstance(layer_sources, Iterable):
        raise ConfigError(f"layer_feature_sources is {short(layer_sources)}: give the sources of each adapter layer")
    translated = {
        "pooling": str(fields.pop("token_pooling_type", "mean")).strip().lower(),
        "num_queries": fields.pop("token_pooling_num_queries", 4),
        "num_heads": fields.pop("token_pooling_num_heads", 8),
        "merge_dim": fields.pop("token_pooling_merge_dim", None),
        "merge_slots": fields.pop("token_pooling_merge_num_slots", 2),
        "sources": _sources(fields.pop("feature_sources", ("backbone", "adapted", "delta"))),
        "layer_sources": None if layer_sources is None else [_sources(spec) for spec in layer_sources],
    }
    sizes = {"per_layer_dim": 4608, "trunk_dim": 6144}
    return dataclass_from_dict(
        ActionExpertConfig, {**sizes, **fields, **translated}, "state_fusion_action_expert_config"
    )


def _vae(mapping: Mapping[str, Any], dit: VideoDiTConfig) -> VAEConfig:
    z_dim = _whole(mapping, "vae_z_dim", dit.in_dim)
    vae = VAEConfig()
    if z_dim != vae.z_dim:
        vae = VAEConfig(z_dim=z_dim, latent_mean=(0.0,) * z_dim, latent_std=(1.0,) * z_dim)
    factor = mapping.get("vae_temporal_downsample_factor", vae.temporal_factor)
    if factor != vae.temporal_factor:
        raise ConfigError(f"vae_temporal_downsample_factor is {short(factor)}: only {vae.temporal_factor} is supported")
    return vae


def _loss(mapping: Mapping[str, Any]) -> LossConfig:
    weighting = mapping.get("action_temporal_weighting") or {}
    temporal = None
    if weighting.get("enabled", False):
        temporal = {
            "prefix_steps": weighting.get("num_prefix_steps"),
            "prefix_weight": weighting.get("prefix_weight", 1.0),
            "tail_weight": weighting.get("tail_weight", 1.0),
        }
    document = {
        "lambda_video": mapping.get("loss_lambda_video", 1.0),
        "lambda_action": mapping.get("loss_lambda_action", 1.0),
        "temporal_weighting": temporal,
    }
    return dataclass_from_dict(LossConfig, document, "loss")
