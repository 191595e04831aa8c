# SPDX-License-Identifier: Apache-2.0
"""The launch that this process interprets: its kernel, the memory of its arguments, the programs that run now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightwam.kernels.formats import Array
from lightwam.kernels.task import Mode

TAG_SHIFT = 56  # addresses of processes use the 47 or 48 bits below


class LaunchError(Exception):
    """A kernel touched memory that is not its argument's, or did something the interpreter would compute wrongly."""


@dataclass(frozen=True)
class Extent:
    """The memory of one argument; `writes`, if there, counts the writes of every element."""

    name: str
    mode: Mode
    address: int
    num_bytes: int
    writes: Array | None = None

    def tagged(self, number: int) -> int:
        """The address with the argument's number in its topmost byte."""
        return self.address | number << TAG_SHIFT


class Running:
    """One launch, of which a batch of programs runs at once."""

    def __init__(self) -> None:
        self.kernel = ""
        self.extents: Sequence[Extent] = ()
        self.programs = np.zeros((1, 3), np.int32)  # the batch: places in the grid, [lanes, 3]
        self.written: list[tuple[Array, Array]] = []  # by the batch: an extent's counters, indices

    def begin(self, programs: Array) -> None:
        """A batch."""
        self.programs, self.written = programs, []

    def end(self) -> None:
        """Count what the batch wrote. One that parts or fails does not come here, and counts nothing."""
        for counters, indices in self.written:
            np.add.at(counters, indices, 1)


RUNNING = Running()
