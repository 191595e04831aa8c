# SPDX-License-Identifier: Apache-2.0
"""What policy training trains, and its losses.

The published losses are those of `LightWAM.training_losses`. Options beside them: a text encoder that is trained with
the policy, a video pass on samples of its own, and a training-only head that must find the task's objects in the
expert's features. Without that head and hidden states a small policy learns to act on the robot's state alone.

Legend: B batch, L text rows, E text width, K located coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.config import LightWAMConfig
from lightwam.errors import DataError
from lightwam.model import LightWAM
from lightwam.model.action_expert import ExpertOutput
from lightwam.model.text import HashedWordsEncoder

FUTURE = "future"
"""Entry of a micro-batch that holds the samples of the video pass, where they are samples of their own."""


class PolicyNetworks(nn.Module):
    """The policy, its text encoder where that is trained, and the localisation head (training only, never exported).

    Args:
        policy: the policy.
        text_encoder: of instructions as text; None: batches hold `context` and `context_mask`.
        located: K; 0 without the head.
        localisation_weight: of the head's loss.
    """

    def __init__(
        self, policy: LightWAM, text_encoder: HashedWordsEncoder | None, located: int = 0,
        localisation_weight: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.policy, self.text_encoder = policy, text_encoder
        features = policy.config.action_expert.per_layer_dim * len(policy.config.video_dit.adapters.layers)
        self.localiser = nn.Linear(features, located) if located and localisation_weight else None
        self.localisation_weight = localisation_weight

    @property
    def config(self) -> LightWAMConfig:
        """The policy's."""
        return self.policy.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.policy.proprio_encoder.weight.device

    def weights(self) -> dict[str, Tensor]:
        """Policy and text encoder under the names of a checkpoint folder."""
        encoder = {} if self.text_encoder is None else self.text_encoder.state_dict()
        return {**self.policy.state_dict(), **{f"text_encoder.{name}": tensor for name, tensor in encoder.items()}}

    def with_context(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with `context` [B, K, E] and `context_mask` [B, K] of its `instruction` texts, zero rows merged."""
        if self.text_encoder is None or "context" in batch:
            return dict(batch)
        texts: Sequence[str] = batch["instruction"]
        known = list(dict.fromkeys(texts))
        lora = self.config.video_dit.lora  # its dropout treats each row for itself
        context = self.text_encoder(known, merged=lora is None or not lora.dropout)
        places = [known.index(text) for text in texts]
        return {**batch, "context": context.rows[places], "context_mask": context.mask[places]}

    def locate(self, output: ExpertOutput) -> Tensor | None:
        """Object coordinates [B, K] (z-scored) from the expert's per-layer features; None without the head."""
        return None if self.localiser is None else self.localiser(torch.cat(output.compressed, dim=-1))

    def forward(
        self, batch: Mapping[str, Any], noise: Tensor | None = None, timestep: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The losses of a micro-batch, each with its weight, and their sum `loss`.

        Args:
            batch: as `LightWAM.training_losses` takes it; `instruction` may stand for the context. With `future`, a
                batch of its own, those samples get the video pass and the others the action pass alone. `located`
                [B, K] where there is a localisation head.
            noise, timestep: of the video pass; drawn if None.
        """
        batch = self.with_context(batch)
        if FUTURE not in batch and self.localiser is None:
            return self.policy.training_losses(batch, noise, timestep)
        loss, weights = self.config.loss, {}
        loss_action, output = self.policy.action_loss(batch)
        weights["loss_action"] = loss.lambda_action * loss_action
        future = self.with_context(batch[FUTURE]) if FUTURE in batch else batch
        if len(future["action"]):
            weights["loss_video"] = loss.lambda_video * self.policy.video_loss(future, noise, timestep)
        located = self.locate(output)
        if located is not None:
            # Not the square: centimetres must go on to matter once decimetres are right.
            error = F.smooth_l1_loss(located.float(), batch["located"], beta=0.1)
            weights["loss_localisation"] = self.localisation_weight * error
        return {"loss": torch.stack(list(weights.values())).sum(), **weights}

    def noise_for(self, batch: Mapping[str, Any], generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
        """(noise, timestep [B]) of the video pass, on the CPU: first the times, then the noise, as published.

        None where no sample gets that pass.
        """
        samples = batch.get(FUTURE, batch)
        latents = samples["video_latents"]
        if not len(latents):
            return None
        if latents.shape[2] < 2:
            raise DataError("video_latents hold no future: encode futures, or set --video-batch 0")
        factor = self.config.video.spatial_downsample
        timestep = self.policy.flow_matching.sample_timesteps(len(latents), torch.device("cpu"), generator)
        shape = (*latents.shape[:3], latents.shape[3] // factor, latents.shape[4] // factor)
        return torch.randn(shape, generator=generator), timestep
