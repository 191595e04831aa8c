# SPDX-License-Identifier: Apache-2.0
"""The residual adapter that follows chosen blocks of the backbone."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.config import AdapterConfig


class ResidualAdapter(nn.Module):
    """h -> h' = h + scale * up(GELU_tanh(down(LN(h)))). `up` starts at zero, so a fresh adapter changes nothing."""

    def __init__(self, hidden_dim: int, config: AdapterConfig, eps: float):
        super().__init__()
        self.scale = config.scale
        self.norm = nn.LayerNorm(hidden_dim, eps=eps)
        self.down_proj = nn.Linear(hidden_dim, config.dim)
        self.up_proj = nn.Linear(config.dim, hidden_dim)
        nn.init.zeros_(self.up_proj.weight)
        nn.init.zeros_(self.up_proj.bias)

    def forward(self, h_BSD: Tensor) -> Tensor:
        delta: Tensor = self.up_proj(F.gelu(self.down_proj(self.norm(h_BSD)), approximate="tanh"))
        return h_BSD + self.scale * delta
