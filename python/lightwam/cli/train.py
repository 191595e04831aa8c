# SPDX-License-Identifier: Apache-2.0
"""`lightwam train vae`, `train policy` and `train blind`: train, or resume what was stopped."""

from __future__ import annotations

import torch

from lightwam.train.blind import train_blind
from lightwam.train.options import BlindTrainArgs, PolicyTrainArgs, VAETrainArgs, check_options
from lightwam.train.policy import PolicyTrainer
from lightwam.train.vae import VAETrainer


def main(args: VAETrainArgs | PolicyTrainArgs | BlindTrainArgs) -> int:
    """Train; networks go to the checkpoint folder `OUT/checkpoint`, the blind baseline to its file."""
    check_options(args)
    torch.set_num_threads(args.machine.threads)
    if isinstance(args, VAETrainArgs):
        VAETrainer(args).run()
    elif isinstance(args, PolicyTrainArgs):
        PolicyTrainer(args).run()
    else:
        train_blind(args)
    return 0
