# SPDX-License-Identifier: Apache-2.0
"""GPUs that machine code is made for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lightwam.kernels.task import Task


@dataclass(frozen=True)
class Target:
    """A kind of GPU. `architecture` as Triton counts it; `shared_bytes`: shared memory a program may have.

    `float8`: whether its matrix units multiply e4m3, and its cores convert it.
    """

    architecture: int
    shared_bytes: int
    gpus: str
    float8: bool = True


#: Others are refused: the compiler ends the whole process at some that it does not know.
TARGETS: Mapping[str, Target] = {
    "sm_87": Target(87, 163 << 10, "Jetson Orin", float8=False),
    "sm_89": Target(89, 99 << 10, "GeForce RTX 40"),
    "sm_90": Target(90, 227 << 10, "H100, H200"),
    "sm_110": Target(110, 227 << 10, "Jetson Thor"),
    "sm_120": Target(120, 99 << 10, "GeForce RTX 50"),
}


def known_targets(names: Iterable[str]) -> tuple[str, ...]:
    """The targets without repetition, in their order. ValueError for none, and for one that is not in TARGETS."""
    unique = tuple(dict.fromkeys(names))
    known = ", ".join(f"{name} ({target.gpus})" for name, target in TARGETS.items())
    for name in unique:
        if name not in TARGETS:
            raise ValueError(f"target {name!r} is unknown: use {known}")
    if not unique:
        raise ValueError(f"no target is given: use some of {known}")
    return unique


def lacking(tasks: Iterable[Task], targets: Iterable[str]) -> tuple[str, ...]:
    """The targets that lack a format of some task."""
    float8 = any(argument.dtype == "f8" for task in tasks for argument in task.arguments)
    return tuple(name for name in targets if float8 and not TARGETS[name].float8)


def refuse_lacking(tasks: Iterable[Task], targets: Iterable[str]) -> None:
    """ValueError for a target that lacks a format of a task."""
    for name in lacking(tasks, targets):
        having = ", ".join(other for other, target in TARGETS.items() if target.float8)
        raise ValueError(
            f"target {name} ({TARGETS[name].gpus}) has no fp8 products, which {having} have: leave it out, or make an "
            "int8 engine for it (lightwam quantize --format int8)"
        )
