# SPDX-License-Identifier: Apache-2.0
"""`lightwam train vae`, `train policy` and `train blind`. Runs leave the checkpoint folder `OUT/checkpoint`."""

from __future__ import annotations

import torch

from lightwam.train.blind import train_blind
from lightwam.train.options import BlindTrainArgs, PolicyTrainArgs, TrainArgs, VAETrainArgs, check_options
from lightwam.train.policy import PolicyTrainer
from lightwam.train.vae import VAETrainer


def _begin(args: TrainArgs | BlindTrainArgs) -> None:
    check_options(args)
    torch.set_num_threads(args.machine.threads)


def vae(args: VAETrainArgs) -> int:
    """Train (or resume) the VAE."""
    _begin(args)
    VAETrainer(args).run()
    return 0


def policy(args: PolicyTrainArgs) -> int:
    """Train (or resume) the policy."""
    _begin(args)
    PolicyTrainer(args).run()
    return 0


def blind(args: BlindTrainArgs) -> int:
    """Train the blind baseline and write its file."""
    _begin(args)
    train_blind(args)
    return 0
