# SPDX-License-Identifier: Apache-2.0
"""Which samples each update uses, and their loading by processes that work ahead.

The order is the published one: a permutation of the rows for each epoch, cut into micro-batches, dealt to the training
processes in turn. With one process the last micro-batch of an epoch is short; with several the epoch is filled up from
its own beginning. An epoch's end ends an update, too. All of it follows from the number of the update, so a run resumes
anywhere, with any number of loading processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightwam.data.mixture import epoch_order

MicroBatch = dict[str, Any]
"""Tensors [B, ...] by name, lists of text, and micro-batches within."""


@dataclass(frozen=True)
class Order:
    """Micro-batches of a run: `batch` rows each, `accumulation` of them an update in each of `world` processes."""

    lengths: tuple[int, ...]
    batch: int
    seed: int
    accumulation: int = 1
    shares: tuple[float, ...] = ()
    world: int = 1
    _epochs: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def batches(self) -> int:
        """Micro-batches of one process in an epoch."""
        return -(-sum(self.lengths) // (self.batch * self.world))

    @property
    def updates(self) -> int:
        """Updates of an epoch."""
        return -(-self.batches // self.accumulation)

    def numbers(self, step: int) -> range:
        """The micro-batches of an update, counted through all epochs, the same numbers in every process."""
        epoch, place = divmod(step, self.updates)
        first = place * self.accumulation
        return range(epoch * self.batches + first, epoch * self.batches + min(first + self.accumulation, self.batches))

    def rows(self, number: int, rank: int = 0) -> list[int]:
        """The rows of a micro-batch of one process."""
        epoch, place = divmod(number, self.batches)
        start = (place * self.world + rank) * self.batch
        return self._epoch(epoch)[start : start + self.batch].tolist()

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            self._epochs.clear()
            order = epoch_order(self.lengths, self.seed, epoch, self.shares or None)
            if self.world > 1:
                wanted = self.batches * self.batch * self.world
                order = order.repeat(-(-wanted // len(order)))[:wanted]
            self._epochs[epoch] = order
        return self._epochs[epoch]


class Loader:
    """Loads the micro-batches of an order.

    Args:
        samples: `samples[row, epoch]` is a mapping, for the rows of `order`.
        order: which samples when.
        rank: this process's place among those that train.
        workers: processes that load; 0: this one.
        prefetch: micro-batches that each of them prepares ahead.
        pin: put tensors into page-locked memory, for copies to a GPU.
    """

    def __init__(
        self, samples: Any, order: Order, *, rank: int = 0, workers: int = 0, prefetch: int = 2, pin: bool = False
    ) -> None:
        self.samples, self.order, self.rank = samples, order, rank
        self.workers, self.prefetch, self.pin = workers, prefetch, pin

    def micro_batches(self, first: int, stop: int) -> Iterator[MicroBatch]:
        """The micro-batches of the numbers `first` up to `stop`, in order."""
        loading: DataLoader[Any] = DataLoader(
            self.samples,
            batch_sampler=_Rows(self.order, range(first, stop), self.rank),
            num_workers=self.workers,
            prefetch_factor=self.prefetch if self.workers else None,
            pin_memory=self.pin,
            collate_fn=joined,
        )
        return iter(loading)

    def updates(self, first: int, last: int) -> Iterator[list[MicroBatch]]:
        """For each update `first`, ..., `last` - 1 its micro-batches."""
        if first >= last:
            return
        loading = self.micro_batches(self.order.numbers(first).start, self.order.numbers(last - 1).stop)
        for step in range(first, last):
            yield list(islice(loading, len(self.order.numbers(step))))


@dataclass(frozen=True)
class _Rows:
    """A batch sampler; it is made anew for each iteration and holds no state."""

    order: Order
    numbers: range
    rank: int

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number in self.numbers:
            epoch = number // self.order.batches
            yield [(row, epoch) for row in self.order.rows(number, self.rank)]


def joined(samples: Sequence[Mapping[str, Any]]) -> MicroBatch:
    """Samples as one micro-batch: tensors stacked, everything else in lists."""
    return {
        name: torch.stack([sample[name] for sample in samples]) if isinstance(value, Tensor)
        else [sample[name] for sample in samples]
        for name, value in samples[0].items()
    }  # fmt: skip
