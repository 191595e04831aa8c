# SPDX-License-Identifier: Apache-2.0
"""An exponential average of weights, kept beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Average:
    """The average of some tensors over the updates, float32.

    Early on it follows closely, so that it forgets the random start: the decay of update n is at most n / (n + 9).
    """

    def __init__(self, tensors: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self.values = [tensor.detach().float().clone() for tensor in tensors]

    @torch.no_grad()
    def update(self, tensors: Sequence[Tensor], updates: int) -> None:
        """Take in the tensors after so many updates."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        for value, tensor in zip(self.values, tensors, strict=True):
            value.lerp_(tensor.to(value.dtype), 1.0 - decay)

    @contextmanager
    def in_place_of(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """The parameters hold the average inside the block, and what they held before after it."""
        kept = [parameter.detach().clone() for parameter in parameters]
        _copy(self.values, parameters)
        try:
            yield
        finally:
            _copy(kept, parameters)


@torch.no_grad()
def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        if source.shape != target.shape:
            raise ValueError(f"average of shape {list(source.shape)} for a weight {list(target.shape)}")
        target.copy_(source)
