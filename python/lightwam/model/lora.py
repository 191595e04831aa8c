# SPDX-License-Identifier: Apache-2.0
"""Low-rank updates of frozen linears."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightwam.config import LoRAConfig


class LoRA(nn.Module):
    """x -> alpha / rank * up(down(x)). `up` starts at zero, so a fresh update changes nothing."""

    def __init__(self, in_dim: int, out_dim: int, config: LoRAConfig):
        super().__init__()
        self.scale = config.alpha / config.rank
        self.dropout = nn.Dropout(config.dropout)
        self.down_proj = nn.Linear(in_dim, config.rank, bias=False)
        self.up_proj = nn.Linear(config.rank, out_dim, bias=False)
        nn.init.kaiming_uniform_(self.down_proj.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up_proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        update: Tensor = self.up_proj(self.down_proj(self.dropout(x)))
        return update * self.scale


def lora_for(config: LoRAConfig | None, layer: int, module: str, in_dim: int, out_dim: int) -> LoRA | None:
    """The update of linear `module` (such as 'self_attn.q') of block `layer`, or None where it has none."""
    if config is None or layer not in config.layers or module not in config.modules:
        return None
    return LoRA(in_dim, out_dim, config)


def apply_linear(linear: nn.Linear, lora: LoRA | None, x: Tensor) -> Tensor:
    """The linear's output plus its low-rank update, if any."""
    y: Tensor = linear(x)
    return y if lora is None else y + lora(x)


def linear_of_heads(linear: nn.Linear, lora: LoRA | None, x_BHLd: Tensor) -> Tensor:
    """What each head's part of an input adds to `apply_linear`, without the bias: [B, H, L, d] -> [B, H, L, D]."""
    heads = x_BHLd.shape[1]
    y = torch.einsum("bhle,dhe->bhld", x_BHLd, linear.weight.unflatten(1, (heads, -1)))  # type: ignore[no-untyped-call]
    if lora is None:
        return y
    down = lora.down_proj.weight.unflatten(1, (heads, -1))  # type: ignore[no-untyped-call]
    update: Tensor = lora.up_proj(torch.einsum("bhle,rhe->bhlr", x_BHLd, down))
    return y + update * lora.scale
