# SPDX-License-Identifier: Apache-2.0
"""The trainer of the world action model on cached latents, with future-video and localisation losses."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightwam.config import read_config
from lightwam.data.normalize import read_statistics
from lightwam.model import WanVAE
from lightwam.model.checkpoint_folder import STATISTICS_FILE, load_checkpoint, part, save_checkpoint
from lightwam.model.fit import load_exactly
from lightwam.train.device import choose_attention, use_device
from lightwam.train.options import PolicyTrainArgs
from lightwam.train.policy_data import load_policy_data
from lightwam.train.policy_losses import PolicyNetworks, check_trainable, training_losses, validate
from lightwam.train.run import TrainingRun


class PolicyTrainer(TrainingRun):
    """Trains a policy with the small text encoder; its checkpoint holds the averaged weights."""

    args: PolicyTrainArgs
    networks: PolicyNetworks
    average: PolicyNetworks
    label = "train policy"

    def __init__(self, args: PolicyTrainArgs) -> None:
        device, seed = use_device(args.machine.device), args.schedule.seed
        attention = choose_attention(args.machine.attention, device)
        torch.manual_seed(seed)
        vae_config, vae_weights = load_checkpoint(args.inputs.vae)
        self.config = dataclasses.replace(read_config(args.inputs.config), vae=vae_config.vae)
        check_trainable(self.config)  # before frames are decoded and encoded
        self.vae_weights = part(vae_weights, "vae.")
        vae = WanVAE(self.config.vae)
        load_exactly(vae, self.vae_weights, f"VAE checkpoint {args.inputs.vae}")
        self.data, self.statistics = load_policy_data(
            args.inputs, self.config, vae.to(device), args.saving.held_out, seed, _earlier_statistics(args)
        )
        torch.manual_seed(seed)
        networks = PolicyNetworks(self.config, self.data.located_NK.shape[1])
        networks.policy.set_attention(attention)
        if args.inputs.init is not None:
            networks.load_weights(load_checkpoint(args.inputs.init)[1])
        networks.to(device)  # the random start is the CPU's, on every device
        average = copy.deepcopy(networks).requires_grad_(False)
        super().__init__(args, device, networks, average, args.optimizer.ema_decay)

    def losses(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of some rows for the action pass, and of some futures for the video pass."""
        rows = torch.from_numpy(rng.choice(self.data.training_rows, self.args.schedule.batch))
        entries = torch.from_numpy(rng.choice(self.data.training_entries, self.args.schedule.video_batch))
        losses = training_losses(self.networks, self.data, rows, entries, self.args.losses)
        return losses["loss"], losses

    def validate(self) -> dict[str, float]:
        """Held-out errors of the averaged weights."""
        return validate(self.average, self.data)

    def save_checkpoint(self, folder: Path) -> None:
        """The averaged weights, the VAE, and the statistics that the data was normalised with."""
        weights = {**self.average.weights(), **{f"vae.{name}": value for name, value in self.vae_weights.items()}}
        save_checkpoint(folder, self.config, weights, self.statistics)


def _earlier_statistics(args: PolicyTrainArgs) -> dict[str, Any] | None:
    """Statistics of the run that is resumed or started from, which its weights belong to; None for a fresh start."""
    for folder in (args.out / "checkpoint", args.inputs.init):
        if folder is not None and (folder / STATISTICS_FILE).exists():
            return read_statistics(folder / STATISTICS_FILE)
    return None
