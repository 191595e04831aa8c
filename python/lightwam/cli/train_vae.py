# SPDX-License-Identifier: Apache-2.0
"""`lightwam train vae`."""

from __future__ import annotations

import torch

from lightwam.train.options import VAETrainArgs, check_options
from lightwam.train.vae import VAETrainer


def main(args: VAETrainArgs) -> int:
    """Train (or resume) the VAE; its checkpoint folder is `OUT/checkpoint`."""
    check_options(args)
    torch.set_num_threads(args.machine.threads)
    VAETrainer(args).run()
    return 0
