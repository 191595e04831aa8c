# SPDX-License-Identifier: Apache-2.0
"""First values of the parts that no Wan2.1 file holds: a start for training on a released backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightwam.config import LightWAMConfig
from lightwam.model.action_expert import StateFusionActionExpert
from lightwam.model.adapters import ResidualAdapter
from lightwam.model.fit import on_meta
from lightwam.model.lora import LoRA
from lightwam.model.world_action_model import LightWAM


def fresh_parts(config: LightWAMConfig, seed: int) -> dict[str, Tensor]:
    """LoRA, adapters, action expert and proprio encoder, float32, under their published names.

    LoRA and adapters change nothing at first: the video DiT computes what the released backbone does.
    """
    dit = config.video_dit
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: dict[str, nn.Module] = {
            "state_fusion_action_expert": StateFusionActionExpert(
                config.action_expert, dit.hidden_dim, len(dit.adapters.layers), config.action_dim
            ),
            "proprio_encoder": nn.Linear(config.state_dim, dit.text_dim),
        }
        for name, module in on_meta(lambda: LightWAM(config)).named_modules():
            if isinstance(module, LoRA):
                assert dit.lora is not None
                made[name] = LoRA(module.down_proj.in_features, module.up_proj.out_features, dit.lora)
            elif isinstance(module, ResidualAdapter):
                made[name] = ResidualAdapter(dit.hidden_dim, dit.adapters, dit.eps)
    return {f"{owner}.{key}": value for owner, part in made.items() for key, value in part.state_dict().items()}
