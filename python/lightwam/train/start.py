# SPDX-License-Identifier: Apache-2.0
"""First weights of a run: what is kept of a checkpoint, what starts anew, what is frozen.

A frozen backbone needs a checkpoint (`lightwam convert` makes one of the released files). Tensors of another shape
start anew: so does a policy for a robot of other widths. Other cameras change no shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.errors import CheckpointError
from lightwam.model import LightWAM
from lightwam.model.checkpoint_folder import load_checkpoint
from lightwam.model.fit import load_exactly, on_meta
from lightwam.model.fresh import fresh_parts
from lightwam.model.names import flatten_published
from lightwam.model.text import HashedWordsEncoder
from lightwam.terminal import table
from lightwam.train.networks import PolicyNetworks

_ENCODER = "text_encoder."
_PARTS = (
    ("LoRA", "lora"), ("adapters", "wam_adapters"), ("video head", "video.head"), ("backbone", "mixtures.video"),
    ("action expert", "state_fusion_action_expert"), ("proprio encoder", "proprio_encoder"),
    ("text encoder", "text_encoder"), ("localisation head", "localiser"),
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """Networks with their first weights, and for each of their tensors 'kept' or why it starts anew."""

    networks: PolicyNetworks
    origin: Mapping[str, str]

    def table(self) -> str:
        """What is kept, starts anew, and is frozen, by part of the networks: parameters in each."""
        rows: dict[tuple[str, str, str], int] = {}
        for name, parameter in self.networks.named_parameters():
            part = next((part for part, mark in _PARTS if mark in name), "other")
            key = (part, self.origin[name], "trained" if parameter.requires_grad else "frozen")
            rows[key] = rows.get(key, 0) + parameter.numel()
        trained = sum(p.numel() for p in self.networks.parameters() if p.requires_grad)
        lines = [(*key, f"{count:,}") for key, count in rows.items()]
        return table(("part", "weights", "", "parameters"), lines, f"{trained:,} parameters train")


def first_networks(
    config: LightWAMConfig, seed: int, located: int, localisation_weight: float, init: Path | None,
    random_backbone: bool = False,
) -> Start:  # fmt: skip
    """Networks of a configuration from a checkpoint folder, or anew.

    Raises `CheckpointError`: the checkpoint is damaged; a frozen backbone has no weights.
    """
    given = {} if init is None else load_checkpoint(init)[1]
    text = {name: tensor for name, tensor in given.items() if name.startswith(_ENCODER)}
    weights = {n: t for n, t in given.items() if n not in text and not n.startswith("vae.")}
    torch.manual_seed(seed)
    policy, kept = _policy(config, seed, flatten_published(weights) if weights else {}, random_backbone, init)
    encoder = HashedWordsEncoder(config.text) if config.text.kind == "hashed_words" else None
    networks = PolicyNetworks(policy, encoder, located, localisation_weight)
    if encoder is not None:
        kept |= _take_over(encoder, {name.removeprefix(_ENCODER): t for name, t in text.items()}, _ENCODER)
    origin = {}
    for name, parameter in networks.named_parameters():
        plain = name.removeprefix("policy.")
        old = given.get(plain)
        other = old is not None and old.shape != parameter.shape
        origin[name] = (
            "kept" if plain in kept else f"new, was {list(old.shape)}" if other and old is not None else "new"
        )
    return Start(networks, origin)


def _policy(
    config: LightWAMConfig, seed: int, weights: Mapping[str, Tensor], random_backbone: bool, init: Path | None
) -> tuple[LightWAM, set[str]]:
    """The policy, and the names of the tensors that come from `weights`."""
    if config.video_dit.train_backbone or random_backbone:
        policy = LightWAM(config)
        return policy, _take_over(policy, weights, "")
    policy = on_meta(lambda: LightWAM(config))
    shapes = {name: tensor.shape for name, tensor in policy.state_dict().items()}
    kept = {name: tensor for name, tensor in weights.items() if shapes.get(name) == tensor.shape}
    chosen = {**fresh_parts(config, seed), **kept}
    missing = sorted(set(shapes) - set(chosen))
    if missing:
        where = "no --init is given" if init is None else f"checkpoint {init} lacks or has otherwise {missing[:3]}"
        raise CheckpointError(
            f"the frozen backbone of {config.name} has no weights, {where}: give --init with a checkpoint folder of "
            "this backbone ('lightwam convert' makes one of released files), or --random-backbone for a trial"
        )
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    made = {name: tensor.float().clone() if name in trained else tensor for name, tensor in chosen.items()}
    load_exactly(policy, {name: made[name] for name in shapes}, "first weights", adopt=True)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name in trained)
    return policy, set(kept)


def _take_over(module: torch.nn.Module, weights: Mapping[str, Tensor], prefix: str) -> set[str]:
    """Copy the tensors that a module has in this shape; returns their names with the prefix."""
    own = module.state_dict()
    fitting = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    module.load_state_dict(fitting, strict=False)
    return {prefix + name for name in fitting}
