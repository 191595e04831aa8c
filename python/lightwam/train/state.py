# SPDX-License-Identifier: Apache-2.0
"""What a save holds so that a run goes on exactly, in one place: weights, optimizer, order of the data, randomness.

Nothing in it depends on the number of processes, on how they share the weights, or on the loader's workers, but for the
random states, of which each process has its own.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightwam.errors import CheckpointError
from lightwam.train.curves import History

FORMAT = 1
RandomState = dict[str, Any]
"""States of the generators of torch (CPU and GPU), numpy and python in one process: tensors and plain data."""
OptimizerState = dict[str, dict[str, Tensor]]
"""Parameter's name -> the optimizer's tensors for it (`exp_avg`, `exp_avg_sq`, `step`)."""


@dataclass(kw_only=True)
class TrainingState:
    """Everything that the next step depends on, as tensors in the CPU's memory and plain data."""

    step: int
    """Updates done."""
    weights: dict[str, Tensor]
    """The trained parameters by name, float32."""
    optimizer: OptimizerState
    average: dict[str, Tensor] | None = None
    """Averaged weights, where the run has them."""
    position: dict[str, int] = field(default_factory=dict)
    """Place in the order of the data, of all processes together: `epoch`, `batch`."""
    rng: list[RandomState] = field(default_factory=list)
    """One for each process, in the order of their ranks."""
    history: History = field(default_factory=dict)
    """The curves so far."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Plain data of the trainer's own."""

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes: about that of the file."""
        return sum(tensor.nbytes for tensor in _tensors(vars(self)))

    def write(self, path: Path) -> None:
        """Write a file. Raises OSError."""
        document = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        with path.open("wb") as file:
            torch.save({"format": FORMAT, **document}, file)

    @staticmethod
    def read(path: Path) -> TrainingState:
        """Read a file of `write`, to the CPU's memory. Raises `CheckpointError` where it is damaged or too new."""
        try:
            document: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")  # wherever it trained
            version = document.pop("format")
            state = TrainingState(**document) if version == FORMAT else None
        except Exception as error:  # torch.load raises many classes on a damaged file
            reason = str(error).strip().split("\n")[0]
            raise CheckpointError(
                f"state of training {path} is damaged ({reason}): remove that save's folder"
            ) from error
        if state is None:
            raise CheckpointError(f"training state {path} has format {version}: read it with a newer lightwam")
        return state


def _tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _tensors(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _tensors(value)


def random_state(device: torch.device | None = None) -> RandomState:
    """The states of this process's global generators; that of a GPU where `device` is one."""
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    assert kind == "MT19937"
    state: RandomState = {
        "torch": torch.get_rng_state(),
        "numpy": [torch.from_numpy(keys.astype(np.int64)), place, has_gauss, gauss],  # type: ignore[union-attr]
        "python": random.getstate(),
    }
    if device is not None and device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: RandomState, device: torch.device | None = None) -> None:
    """Inverse of `random_state`. A GPU's generator stays as it is where the state is of a run without one."""
    torch.set_rng_state(state["torch"])
    keys, place, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), place, has_gauss, gauss))  # noqa: NPY002
    version, internal, rest = state["python"]
    random.setstate((version, tuple(internal), rest))
    if device is not None and device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def seed_rank(seed: int, rank: int) -> None:
    """Seed the global generators of a process with seed + rank, as published."""
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)  # noqa: NPY002
    torch.manual_seed(seed + rank)
