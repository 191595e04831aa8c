# SPDX-License-Identifier: Apache-2.0
"""GPUs that machine code is made for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A kind of GPU. `architecture` as Triton counts it; `shared_bytes`: shared memory a program may have."""

    architecture: int
    shared_bytes: int
    gpus: str


#: Others are refused: the compiler ends the whole process at some that it does not know.
TARGETS: Mapping[str, Target] = {
    "sm_87": Target(87, 163 << 10, "Jetson Orin"),
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
