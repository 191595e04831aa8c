# SPDX-License-Identifier: Apache-2.0
"""Tasks: a kernel specialised to its shapes, and the ways (tactics) to run it: what is compiled, launched, counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: f8: e4m3 without infinities (4 bits of exponent, 3 of mantissa; 448 is the largest), where the target has it.
DType = Literal["f32", "f16", "bf16", "f8", "i8", "i32", "u8"]
Mode = Literal["r", "w"]
Constant = int | float | bool | str | None
# Products run on the target's matrix units in this format; "none": no matrix products.
ProductType = Literal["f32", "f16", "bf16", "f8", "i8", "none"]
ELEMENT_BYTES: Mapping[DType, int] = {"f32": 4, "f16": 2, "bf16": 2, "f8": 1, "i8": 1, "i32": 4, "u8": 1}


@dataclass(frozen=True)
class Argument:
    """A pointer argument. `shape` counts the elements from the pointer on that the kernel may touch, without holes.

    A kernel writes every element of an argument of mode "w" and reads none of it; `shape` is None where only the
    machine that runs the policy knows it (camera frames).
    """

    name: str
    mode: Mode
    dtype: DType
    shape: tuple[int, ...] | None

    @property
    def num_bytes(self) -> int | None:
        return None if self.shape is None else math.prod(self.shape) * ELEMENT_BYTES[self.dtype]


@dataclass(frozen=True)
class Tactic:
    """One way to run a task: tile sizes and other constants of the kernel that do not change what it computes."""

    constants: Mapping[str, Constant]
    num_warps: int = 4
    num_stages: int = 2

    def integer(self, name: str) -> int:
        """The constant `name`, which is a number."""
        return int(str(self.constants[name]))


@dataclass(frozen=True)
class Task:
    """A kernel with every number of the problem fixed. Its arguments are pointers only, in the kernel's order."""

    kernel: str  # module of lightwam.kernels that defines it
    constants: Mapping[str, Constant]
    arguments: tuple[Argument, ...]
    flops: int  # of the products, 2 a multiply-add; rows past a dynamic count are counted
    product_type: ProductType = "none"

    def integer(self, name: str) -> int:
        """The constant `name`, which is a number."""
        return int(str(self.constants[name]))
