# SPDX-License-Identifier: Apache-2.0
"""Tasks: a kernel specialised to its shapes, and the ways (tactics) to run it: what is compiled, launched, counted."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

#: f8: e4m3 without infinities (4 bits of exponent, 3 of mantissa; 448 is the largest), where the target has it.
DType = Literal["f32", "f16", "bf16", "f8", "i8", "i32", "u8"]
Mode = Literal["r", "w"]
Constant = int | float | bool | str | None
# Matmuls run on the target's tensor cores in this format ; "none": no matmuls.
ProductType = Literal["f32", "f16", "bf16", "f8", "i8", "none"]
FLOATS: tuple[DType, ...] = ("f32", "f16", "bf16")
EIGHT_BITS: tuple[DType, ...] = ("i8", "f8")
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


class _Constants:
    """What has named constants."""

    constants: Mapping[str, Constant]

    def integer(self, name: str) -> int:
        """The constant `name`, which is a whole number."""
        value = self.constants[name]
        assert isinstance(value, int), name
        return value


def given(*arguments: Argument | None) -> tuple[Argument, ...]:
    """The arguments that a task has, in their order: None stands for an optional one that it lacks."""
    return tuple(argument for argument in arguments if argument is not None)


def check_sizes(kernel: str, **sizes: int) -> None:
    """ValueError of one line unless all sizes are positive."""
    if min(sizes.values()) < 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{kernel}: {told}; positive numbers are needed")


@dataclass(frozen=True)
class Tactic(_Constants):
    """One way to run a task: tile sizes and other constants of the kernel that do not change what it computes."""

    constants: Mapping[str, Constant]
    num_warps: int = 4
    num_stages: int = 2


def distinct(tactics: Iterable[Tactic]) -> list[Tactic]:
    """The tactics in their order, each once."""
    found: list[Tactic] = []
    for tactic in tactics:
        if tactic not in found:
            found.append(tactic)
    return found


@dataclass(frozen=True)
class Task(_Constants):
    """A kernel with every number of the problem fixed. Its arguments are pointers only, in the kernel's order."""

    kernel: str  # module of lightwam.kernels.ops that defines it
    constants: Mapping[str, Constant]
    arguments: tuple[Argument, ...]
    flops: int  # of the matmuls, 2 a multiply-add; rows past a dynamic count are counted
    product_type: ProductType = "none"

    def real(self, name: str) -> float:
        """The constant `name`, which is a number."""
        value = self.constants[name]
        assert isinstance(value, (int, float)), name
        return value

    def dtype(self, name: str) -> DType:
        """The format of the argument `name`. KeyError if there is none."""
        return {argument.name: argument.dtype for argument in self.arguments}[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the argument `name`, which is known before run time."""
        shape = next(argument.shape for argument in self.arguments if argument.name == name)
        assert shape is not None, name
        return shape

    @property
    def argument_names(self) -> set[str]:
        return {argument.name for argument in self.arguments}


def kernel_module(task: Task) -> ModuleType:
    """The module of `lightwam.kernels.ops` that defines the task's kernel."""
    return importlib.import_module(f"lightwam.kernels.ops.{task.kernel}")


def kernel_parameters(task: Task, tactic: Tactic) -> dict[str, Argument | Any]:
    """What each parameter of the kernel is bound to, in its order: an argument or a constant.

    A pointer that the task lacks (an optional one) is the constant None. ValueError if the task does not fit.
    """
    function = kernel_module(task).kernel.fn
    arguments = {argument.name: argument for argument in task.arguments}
    constants = {**task.constants, **tactic.constants}
    bound: dict[str, Argument | Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if "constexpr" not in str(parameter.annotation):
            bound[name] = arguments.pop(name, None)
        elif name in constants:
            bound[name] = constants.pop(name)
        else:
            raise ValueError(f"kernel {task.kernel}: constant {name} is missing from the task and the tactic")
    if arguments or constants:
        raise ValueError(f"kernel {task.kernel}: no parameter for {', '.join([*arguments, *constants])}")
    order = [value.name for value in bound.values() if isinstance(value, Argument)]
    if order != [argument.name for argument in task.arguments]:
        raise ValueError(f"kernel {task.kernel}: arguments are not in the order of its parameters: {', '.join(order)}")
    return bound
