# SPDX-License-Identifier: Apache-2.0
"""`lightwam train vae`, `train policy` and `train blind`: train, or resume what was stopped."""

from __future__ import annotations

import torch

from lightwam.cli.rollouts import SimulatorRollouts
from lightwam.train.blind import train_blind
from lightwam.train.options import BlindTrainArgs, VAETrainArgs, check_options
from lightwam.train.policy import train_policy
from lightwam.train.policy_options import PolicyTrainArgs, check_machine
from lightwam.train.vae import train_vae


def main(args: VAETrainArgs | PolicyTrainArgs | BlindTrainArgs) -> int:
    """Train; networks go to the checkpoint folder `OUT/checkpoint`, the blind baseline to its file."""
    if isinstance(args, PolicyTrainArgs):
        check_machine(args.machine)
    else:
        check_options(args)
    torch.set_num_threads(args.machine.threads)
    if isinstance(args, VAETrainArgs):
        train_vae(args)
    elif isinstance(args, PolicyTrainArgs):
        train_policy(args, SimulatorRollouts(args.rollouts))
    else:
        train_blind(args)
    return 0
