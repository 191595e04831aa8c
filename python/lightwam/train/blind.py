# SPDX-License-Identifier: Apache-2.0
"""`lightwam train blind`: a multilayer perceptron from the robot's state alone to a chunk of actions.

It sees no image and no instruction. Its success stands beside every figure of a policy that does see: where placements
hardly vary, a blind policy solves a task. The file it writes (`.npz`) is what `lightwam eval` drives; NumPy suffices.

Legend: N rows, P state width, H horizon, A action width, B batch.
"""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.arithmetic import default_arithmetic
from lightwam.config import read_config
from lightwam.data.sources import open_datasets
from lightwam.data.windows import build_windows
from lightwam.files import replacing_file
from lightwam.progress import counting_bar
from lightwam.train.device import to_device, use_device
from lightwam.train.options import BlindTrainArgs
from lightwam.train.run import learning_rate, update

log = logging.getLogger(__name__)


def blind_network(state_dim: int, hidden: int, layers: int, outputs: int) -> nn.Sequential:
    """Linear layers with GELU (tanh) between them: [B, P] -> [B, H A]."""
    widths = [state_dim, *[hidden] * (layers - 1), outputs]
    stack: list[nn.Module] = []
    for index, (narrow, wide) in enumerate(pairwise(widths)):
        stack += [nn.Linear(narrow, wide)] + ([nn.GELU("tanh")] if index < layers - 1 else [])
    return nn.Sequential(*stack)


def _standardised(values: np.ndarray) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """(values with mean 0 and deviation 1 over the first axis, mean, deviation)."""
    mean, std = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64) + 1e-3
    return torch.from_numpy(((values - mean) / std).astype(np.float32)), mean, std


@default_arithmetic
def train_blind(args: BlindTrainArgs) -> None:
    """Train, and write a blind policy file. Raises `DataError` on data sets that do not fit."""
    device, schedule = use_device(args.machine.device), args.schedule
    config = read_config(args.inputs.config)
    datasets = open_datasets(args.inputs.data, config)
    windows = [build_windows(dataset, config) for dataset in datasets]
    states, state_mean, state_std = _standardised(np.concatenate([dataset.state for dataset in datasets]))
    chunks = np.concatenate([window.action_NHA for window in windows])
    actions, action_mean, action_std = _standardised(chunks.reshape(-1, config.action_dim))
    targets = actions.reshape(len(chunks), -1)
    weights = torch.from_numpy(np.concatenate([~window.action_is_pad_NH for window in windows]))
    weights_NX = weights.repeat_interleave(config.action_dim, dim=1).float()
    torch.manual_seed(schedule.seed)
    network = blind_network(config.state_dim, args.hidden, args.layers, targets.shape[1]).to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), betas=args.optimizer.betas, weight_decay=args.optimizer.weight_decay
    )
    with counting_bar("train blind baseline", show=True) as show:
        for step in range(schedule.steps):
            rng = np.random.default_rng([schedule.seed, step])
            rows = torch.from_numpy(rng.integers(len(states), size=schedule.batch))
            state, target, weight = (to_device(values[rows], device) for values in (states, targets, weights_NX))
            error = F.mse_loss(network(state), target, reduction="none") * weight
            loss = error.sum() / weight.sum()
            update(optimizer, loss, learning_rate(step, schedule), args.optimizer.gradient_clip)
            show(step + 1, schedule.steps)
            if (step + 1) % 1000 == 0:
                log.info("step %d loss %.4f", step + 1, float(loss))
    linears = [module.cpu() for module in network if isinstance(module, nn.Linear)]
    arrays: dict[str, Any] = {
        "kind": "blind", "layers": len(linears), "horizon": config.horizon,
        "replan": args.replan_steps or config.replan_steps,
        **{f"weight_{i}": linear.weight.detach().numpy() for i, linear in enumerate(linears)},
        **{f"bias_{i}": linear.bias.detach().numpy() for i, linear in enumerate(linears)},
        "state_mean": state_mean.astype(np.float32), "state_std": state_std.astype(np.float32),
        "action_mean": action_mean.astype(np.float32), "action_std": action_std.astype(np.float32),
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(args.out) as building, building.open("wb") as file:
        np.savez(file, **arrays)
