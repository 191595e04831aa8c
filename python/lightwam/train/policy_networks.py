# SPDX-License-Identifier: Apache-2.0
"""What policy training trains: the policy, its text encoder, and a head that only training has.

Legend: B batch, K located coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightwam.config import LightWAMConfig
from lightwam.errors import ConfigError
from lightwam.model import LightWAM
from lightwam.model.checkpoint_folder import part
from lightwam.model.fit import load_exactly
from lightwam.model.text import HashedWordsEncoder


class PolicyNetworks(nn.Module):
    """What is trained: the policy, its text encoder, and the localisation head (training only, never exported)."""

    def __init__(self, config: LightWAMConfig, located: int) -> None:
        super().__init__()
        if config.text.kind != "hashed_words":
            raise ConfigError(f"text.kind is {config.text.kind!r}: this trainer trains policies with 'hashed_words'")
        self.policy = LightWAM(config)
        self.text_encoder = HashedWordsEncoder(config.text)
        features = config.action_expert.per_layer_dim * len(config.video_dit.adapters.layers)
        self.localiser = nn.Linear(features, located) if located else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.policy.proprio_encoder.weight.device

    def weights(self) -> dict[str, Tensor]:
        """Policy and text encoder under the names of a checkpoint folder."""
        text = {f"text_encoder.{name}": tensor for name, tensor in self.text_encoder.state_dict().items()}
        return {**self.policy.state_dict(), **text}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Inverse of `weights`; VAE tensors in it are left alone. Raises `CheckpointError`."""
        known = {name: value for name, value in weights.items() if not name.startswith(("vae.", "text_encoder."))}
        self.policy.load_published(known)
        load_exactly(self.text_encoder, part(weights, "text_encoder."), "text encoder checkpoint")

    def locate(self, compressed: tuple[Tensor, ...]) -> Tensor | None:
        """Object coordinates [B, K] (z-scored) from the expert's per-layer features."""
        return None if self.localiser is None else self.localiser(torch.cat(compressed, dim=-1))
