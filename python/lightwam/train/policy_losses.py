# SPDX-License-Identifier: Apache-2.0
"""What policy training trains, its losses and held-out errors.

Beside the published losses there is a training-only head that must find the task's objects in the expert's features,
and the state is hidden from a part of the samples: without both, a small policy learns to act on the robot's state
alone.

Legend: B batch, L text tokens, E text width, K located coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.config import LightWAMConfig
from lightwam.errors import ConfigError
from lightwam.model import LightWAM
from lightwam.model.checkpoint_folder import part
from lightwam.model.fit import load_exactly
from lightwam.model.text import HashedWordsEncoder
from lightwam.train.device import batch_to_device, to_device
from lightwam.train.options import PolicyLosses
from lightwam.train.policy_data import PolicyData


def check_trainable(config: LightWAMConfig) -> None:
    """Raise `ConfigError` for a policy with another text encoder than the small one."""
    if config.text.kind != "hashed_words":
        raise ConfigError(
            f"text.kind is {config.text.kind!r}: this trainer trains policies with 'hashed_words', as nano has"
        )


class PolicyNetworks(nn.Module):
    """What is trained: the policy, its text encoder, and the localisation head (training only, never exported)."""

    def __init__(self, config: LightWAMConfig, located: int) -> None:
        super().__init__()
        check_trainable(config)
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


def with_context(networks: PolicyNetworks, data: PolicyData, batch: dict[str, Tensor], rows: Tensor) -> None:
    """Add `context` [B, L, E] and `context_mask` of the rows' tasks to a batch on the networks' device."""
    context = networks.text_encoder(data.tasks)
    tasks = to_device(data.task_N[rows], networks.device)
    batch["context"], batch["context_mask"] = context.rows[tasks], context.mask[tasks]


def training_losses(
    networks: PolicyNetworks, data: PolicyData, rows: Tensor, entries: Tensor, weights: PolicyLosses
) -> dict[str, Tensor]:
    """All losses of one step: `rows` for the action pass, `entries` of the futures for the video pass."""
    config, device = networks.policy.config, networks.device
    batch = data.batch(rows)
    hidden = torch.rand(len(rows), 1) < weights.state_dropout
    batch["proprio"] = batch["proprio"].masked_fill(hidden, 0.0)
    batch = batch_to_device(batch, device)
    with_context(networks, data, batch, rows)
    loss_action, output = networks.policy.action_loss(batch)
    losses = {"loss_action": loss_action}
    total = config.loss.lambda_action * loss_action
    if len(entries):
        video, video_rows = data.video_batch(entries)
        video = batch_to_device(video, device)
        with_context(networks, data, video, video_rows)
        losses["loss_video"] = networks.policy.video_loss(video)
        total = total + config.loss.lambda_video * losses["loss_video"]
    located = networks.locate(output.compressed)
    if located is not None:
        # Not the square: centimetres must go on to matter once decimetres are right.
        losses["loss_localisation"] = F.smooth_l1_loss(
            located.float(), to_device(data.located_NK[rows], device), beta=0.1
        )
        total = total + weights.localisation_weight * losses["loss_localisation"]
    return {"loss": total, **losses}


@torch.no_grad()
def validate(networks: PolicyNetworks, data: PolicyData, count: int = 256) -> dict[str, float]:
    """Held-out errors: normalised actions of the executed prefix; the target's position in cm, also without state.

    Nothing where no episode is held out.
    """
    config, device = networks.policy.config, networks.device
    if not len(data.held_out_rows):
        return {}
    std_K = to_device(data.located_std_K, device)
    chosen = data.held_out_rows[:: max(1, len(data.held_out_rows) // count)]
    squared: list[Tensor] = []
    off: list[Tensor] = []
    off_blind: list[Tensor] = []
    for start in range(0, len(chosen), 32):
        rows = torch.from_numpy(chosen[start : start + 32])
        batch = batch_to_device(data.batch(rows), device)
        with_context(networks, data, batch, rows)
        _, output = networks.policy.action_loss(batch)
        error = (output.actions_BHA.float() - batch["action"]).square()[:, : config.replan_steps]
        squared.append(error[~batch["action_is_pad"][:, : config.replan_steps]])
        batch["proprio"] = torch.zeros_like(batch["proprio"])
        _, hidden = networks.policy.action_loss(batch)
        for collected, result in ((off, output), (off_blind, hidden)):
            located = networks.locate(result.compressed)
            if located is not None:
                centimetres = 100 * (located.float() - to_device(data.located_NK[rows], device)) * std_K
                collected.append(centimetres.view(len(rows), -1, 2).norm(dim=-1))
    errors = torch.cat(squared)
    figures = {"held_out/action_mse": errors.mean(), "held_out/translation_mse": errors[:, :3].mean()}
    if config.robot.gripper is not None:
        figures["held_out/gripper_mse"] = errors[:, config.robot.gripper_column].mean()
    for name, collected in (("target", off), ("target_state_hidden", off_blind)):
        if collected:
            distances = torch.cat(collected)
            figures[f"held_out/{name}_cm"] = distances[:, 0].median()
            figures[f"held_out/{name}_to_gripper_cm"] = distances[:, -1].median()
    return {name: float(value) for name, value in figures.items()}
