# SPDX-License-Identifier: Apache-2.0
"""`lightwam train blind`: a multilayer perceptron from the robot's state alone to a chunk of actions.

It sees no image and no instruction. Its success stands beside every figure of a policy that does see: where placements
hardly vary, a blind policy solves a task. The file it writes (`.npz`) is what `lightwam eval` drives; NumPy suffices.

Legend: N rows, P state width, H horizon, A action width, B batch.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.config import LightWAMConfig
from lightwam.data.lerobot import LeRobotDataset, open_dataset
from lightwam.data.windows import build_windows
from lightwam.errors import DataError
from lightwam.progress import counting_bar
from lightwam.train.artifacts import check_options, learning_rate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlindTrainArgs:
    """Options of `lightwam train blind`."""

    data: tuple[Path, ...]
    """Folders of LeRobot data sets."""
    out: Path
    """File to write (.npz)."""
    steps: int = 6000
    batch: int = 256
    hidden: int = 256
    layers: int = 3
    """Linear layers, the last one included."""
    peak_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    replan_steps: int | None = None
    """Actions to execute of each chunk (default: the policy's own)."""
    seed: int = 42
    threads: int = 1


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


def train_blind(datasets: list[LeRobotDataset], config: LightWAMConfig, args: BlindTrainArgs) -> dict[str, Any]:
    """Train, and return the arrays of a blind policy file. Raises `DataError` on data sets that do not fit."""
    if not datasets:
        raise DataError("no data set is given: name at least one folder")
    for dataset in datasets:
        dataset.check(tuple(c.name for c in config.cameras.cameras), config.state_dim, config.action_dim)
    windows = [build_windows(dataset, config) for dataset in datasets]
    states, state_mean, state_std = _standardised(np.concatenate([dataset.state for dataset in datasets]))
    chunks = np.concatenate([window.action_NHA for window in windows])
    actions, action_mean, action_std = _standardised(chunks.reshape(-1, config.action_dim))
    targets = actions.reshape(len(chunks), -1)
    weights = torch.from_numpy(np.concatenate([~window.action_is_pad_NH for window in windows]))
    weights_NX = weights.repeat_interleave(config.action_dim, dim=1).float()
    torch.manual_seed(args.seed)
    network = blind_network(config.state_dim, args.hidden, args.layers, targets.shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.peak_learning_rate, weight_decay=args.weight_decay)
    with counting_bar("train blind baseline", show=True) as update:
        for step in range(args.steps):
            update(step + 1, args.steps)
            rows = torch.from_numpy(np.random.default_rng([args.seed, step]).integers(len(states), size=args.batch))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args.peak_learning_rate, 100, args.steps)
            error = F.mse_loss(network(states[rows]), targets[rows], reduction="none") * weights_NX[rows]
            loss = error.sum() / weights_NX[rows].sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if (step + 1) % 1000 == 0:
                log.info("step %d loss %.4f", step + 1, float(loss))
    linears = [module for module in network if isinstance(module, nn.Linear)]
    return {
        "kind": "blind", "layers": len(linears), "horizon": config.horizon,
        "replan": args.replan_steps or config.replan_steps,
        **{f"weight_{i}": linear.weight.detach().numpy() for i, linear in enumerate(linears)},
        **{f"bias_{i}": linear.bias.detach().numpy() for i, linear in enumerate(linears)},
        "state_mean": state_mean.astype(np.float32), "state_std": state_std.astype(np.float32),
        "action_mean": action_mean.astype(np.float32), "action_std": action_std.astype(np.float32),
    }  # fmt: skip


def main(args: BlindTrainArgs) -> int:
    """Train the blind baseline of the nano policy's data and write its file."""
    check_options(args)
    torch.set_num_threads(args.threads)
    arrays = train_blind([open_dataset(folder) for folder in args.data], LightWAMConfig.nano(), args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(args.out.stem + ".tmp.npz")
    np.savez(temporary, **arrays)
    os.replace(temporary, args.out)
    return 0
