# SPDX-License-Identifier: Apache-2.0
"""`lightwam train blind`."""

from __future__ import annotations

import torch

from lightwam.train.blind import train_blind
from lightwam.train.options import BlindTrainArgs, check_options


def main(args: BlindTrainArgs) -> int:
    """Train the blind baseline and write its file."""
    check_options(args)
    torch.set_num_threads(args.machine.threads)
    train_blind(args)
    return 0
