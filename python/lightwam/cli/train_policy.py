# SPDX-License-Identifier: Apache-2.0
"""`lightwam train policy`."""

from __future__ import annotations

import torch

from lightwam.train.options import PolicyTrainArgs, check_options
from lightwam.train.policy import PolicyTrainer


def main(args: PolicyTrainArgs) -> int:
    """Train (or resume) the policy; its checkpoint folder is `OUT/checkpoint`."""
    check_options(args)
    torch.set_num_threads(args.machine.threads)
    PolicyTrainer(args).run()
    return 0
