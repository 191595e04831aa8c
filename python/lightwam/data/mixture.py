# SPDX-License-Identifier: Apache-2.0
"""In which order the rows of one or several data sets are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightwam.errors import ConfigError


def epoch_order(lengths: Sequence[int], seed: int, epoch: int, shares: Sequence[float | None] | None = None) -> Tensor:
    """Row numbers (int64) of one epoch; the rows of the data sets are counted through, one set after the other.

    Args:
        lengths: rows of each data set.
        seed: of the run.
        epoch: its number; the order follows from `seed + epoch`, as in the published trainer.
        shares: None, or None for every set: each row once. Otherwise the part of each set relative to the others: the
            epoch has as many rows in all, and no row of a set comes twice before all of that set came once.

    Raises:
        ConfigError: a set is empty; shares are given for some sets only, are negative or all 0.
    """
    if not lengths or min(lengths) < 1:
        raise ConfigError(f"data sets have {list(lengths)} rows: each needs at least one")
    generator, total = torch.Generator().manual_seed(seed + epoch), sum(lengths)
    if shares is None or all(share is None for share in shares):
        return torch.randperm(total, generator=generator)
    check_shares(shares, len(lengths))
    counts = _counts(total, [float(share or 0) for share in shares])
    parts, first = [], 0
    for length, count in zip(lengths, counts, strict=True):
        rounds = [torch.randperm(length, generator=generator) for _ in range(-(-count // length))]
        if rounds:
            parts.append(first + torch.cat(rounds)[:count])
        first += length
    chosen = torch.cat(parts)
    return chosen[torch.randperm(len(chosen), generator=generator)]


def check_shares(shares: Sequence[float | None], sets: int) -> None:
    """Raise `ConfigError` unless each of so many data sets has a share, 0 or more, one of them above 0."""
    known = [float(share) for share in shares if share is not None]
    if len(known) != sets or min(known) < 0 or not 0 < sum(known) < float("inf"):
        raise ConfigError(f"shares are {list(shares)} for {sets} data sets: give every set one, 0 or more, not all 0")


def _counts(total: int, known: Sequence[float]) -> list[int]:
    """Rows of each set in an epoch of `total` rows."""
    ends = [round(total * sum(known[: i + 1]) / sum(known)) for i in range(len(known))]
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
