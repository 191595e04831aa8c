# SPDX-License-Identifier: Apache-2.0
"""`lightwam train blind`: a multilayer perceptron from the robot's state and instruction to a chunk of actions.

It sees no image; of the instruction it knows which one of the data's it is, where these are several. Its success stands
beside every figure of a policy that does see: where placements hardly vary, a blind policy solves a task. The file it
writes (`.npz`) is what `lightwam eval` drives; NumPy suffices.

Legend: N rows, P state width, K instructions (0 where there is but one), H horizon, A action width, B batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightwam.arithmetic import default_arithmetic
from lightwam.config import read_config
from lightwam.data.dataset import Dataset
from lightwam.data.samples import english
from lightwam.data.sources import open_datasets
from lightwam.data.windows import build_windows
from lightwam.files import replacing_file
from lightwam.progress import counting_bar
from lightwam.train.device import use_device
from lightwam.train.loader import MicroBatch, Order
from lightwam.train.options import BlindTrainArgs
from lightwam.train.recipe import Computing, Recipe
from lightwam.train.trainer import Ready, make_step, on_device, steps_of, train

log = logging.getLogger(__name__)


def blind_network(inputs: int, hidden: int, layers: int, outputs: int) -> nn.Sequential:
    """Linear layers with GELU (tanh) between them: [B, P + K] -> [B, H A]."""
    widths = [inputs, *[hidden] * (layers - 1), outputs]
    stack: list[nn.Module] = []
    for index, (narrow, wide) in enumerate(pairwise(widths)):
        stack += [nn.Linear(narrow, wide)] + ([nn.GELU("tanh")] if index < layers - 1 else [])
    return nn.Sequential(*stack)


def _standardised(values: np.ndarray) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """(values with mean 0 and deviation 1 over the first axis, mean, deviation)."""
    mean, std = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64) + 1e-3
    return torch.from_numpy(((values - mean) / std).astype(np.float32)), mean, std


def instructed(datasets: Sequence[Dataset]) -> tuple[list[str], Tensor]:
    """The data's instructions, where they are several, and which one each row has, float32 [N, K]."""
    episodes = [episode for dataset in datasets for episode in dataset.episodes]
    texts = sorted({english(episode.task) for episode in episodes})
    rows = torch.tensor([texts.index(english(episode.task)) for episode in episodes
                         for _ in range(episode.start, episode.stop)])  # fmt: skip
    if len(texts) == 1:
        return [], torch.zeros(len(rows), 0)
    return texts, F.one_hot(rows, len(texts)).float()


class BlindNetwork(nn.Module):
    """A multilayer perceptron and its loss: forward(batch) of `state` [B, P + K], `action` and `weight` [B, H A]."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(
        self, batch: Mapping[str, Tensor], noise: Tensor | None = None, timestep: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`loss`: the mean squared error of the actions that are no padding."""
        error = F.mse_loss(self.layers(batch["state"]), batch["action"], reduction="none") * batch["weight"]
        return {"loss": error.sum() / batch["weight"].sum()}


class Blind:
    """The network and its data; see `lightwam.train.trainer.Learner`.

    Args:
        networks: what trains.
        arrays: standardised states and instructions [N, P + K], standardised actions and their weights [N, H A], all
            float32.
        order: which rows when.
        device: where it trains.
    """

    label = "train blind baseline"

    def __init__(
        self, networks: BlindNetwork, arrays: tuple[Tensor, Tensor, Tensor], order: Order, device: torch.device
    ) -> None:
        self.networks, self._arrays, self.order, self.device = networks, arrays, order, device

    def updates(self, first: int, last: int) -> Iterator[list[MicroBatch]]:
        """One micro-batch an update."""
        for step in range(first, last):
            rows = [torch.tensor(self.order.rows(number)) for number in self.order.numbers(step)]
            yield [dict(zip(("state", "action", "weight"), (a[r] for a in self._arrays), strict=True)) for r in rows]

    def ready(self, batch: MicroBatch, generator: torch.Generator) -> Ready:
        """On the device; nothing is drawn."""
        return Ready(on_device(batch, self.device))


@default_arithmetic
def train_blind(args: BlindTrainArgs) -> None:
    """Train, and write a blind policy file. Raises `DataError` on data sets that do not fit."""
    device, schedule = use_device(args.machine.device), args.schedule
    config = read_config(args.inputs.config)
    recipe = Recipe(name="blind", policy=config, schedule=schedule, optimizer=args.optimizer,
                    computing=Computing(precision="float32"))  # fmt: skip
    datasets = open_datasets(args.inputs.data, config, args.inputs)
    windows = [build_windows(dataset, config) for dataset in datasets]
    states, state_mean, state_std = _standardised(np.concatenate([dataset.state for dataset in datasets]))
    chunks = np.concatenate([window.action_NHA for window in windows])
    actions, action_mean, action_std = _standardised(chunks.reshape(-1, config.action_dim))
    valid_NH = torch.from_numpy(np.concatenate([~window.action_is_pad_NH for window in windows]))
    weights = valid_NH.repeat_interleave(config.action_dim, dim=1).float()
    torch.manual_seed(schedule.seed)
    targets = actions.reshape(len(chunks), -1)
    texts, told_NK = instructed(datasets)
    states = torch.cat([states, told_NK], dim=1)
    network = blind_network(states.shape[1], args.hidden, args.layers, targets.shape[1]).to(device)
    order = Order((len(states),), schedule.batch, schedule.seed, schedule.accumulation)
    subject = Blind(BlindNetwork(network), (states, targets, weights), order, device)
    step = make_step(subject.networks, recipe, steps_of(recipe, order))
    with counting_bar(subject.label, show=True) as show:
        for update in train(subject, step, recipe, steps_of(recipe, order)):
            show(step.step_count, steps_of(recipe, order))
            if step.step_count % 1000 == 0:
                log.info("step %d loss %.4f", step.step_count, update.figures["loss"])
    linears = [module.cpu() for module in network if isinstance(module, nn.Linear)]
    arrays: dict[str, Any] = {
        "kind": "blind", "layers": len(linears), "horizon": config.horizon,
        "replan": args.replan_steps or config.replan_steps,
        **{f"weight_{i}": linear.weight.detach().numpy() for i, linear in enumerate(linears)},
        **{f"bias_{i}": linear.bias.detach().numpy() for i, linear in enumerate(linears)},
        "state_mean": state_mean.astype(np.float32), "state_std": state_std.astype(np.float32),
        "action_mean": action_mean.astype(np.float32), "action_std": action_std.astype(np.float32),
    }  # fmt: skip
    if texts:
        arrays["instructions"] = np.array(texts)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(args.out) as building, building.open("wb") as file:
        np.savez(file, **arrays)
