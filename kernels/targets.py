# SPDX-License-Identifier: Apache-2.0
"""The one table of GPUs: the targets that kernels are tuned and compiled for, and the concrete GPUs of predictions.

A new GPU is an entry here. Its tactic family names the lists of block sizes that attention kernels try.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # benchmarks/gpu_check.py reads this file alone, before the package is built
    from lightwam.kernels.task import ProductType, Task

LATENCY = 900  # cycles from a request to device memory to its bytes
REGISTERS = 65536  # of a multiprocessor
MOST_WARPS = 48  # of a multiprocessor at a time; some have 64

#: mma takes operands from registers, the others take them from shared memory.
TensorCore = Literal["mma", "wgmma", "tcgen05"]
TacticFamily = Literal["mma", "mma_sm_120", "warp_group"]


@dataclass(frozen=True)
class Target:
    """A GPU architecture; rates are those of one multiprocessor of its usual GPU. Rough: they only order tactics."""

    architecture: int  # as Triton counts it
    gpus: str  # what it is sold as
    tensor_core: TensorCore
    tactics: TacticFamily
    multiprocessors: int
    shared_bytes: int  # shared memory that a program may have
    matmul_rate: int  # bf16 multiply-adds a cycle, f32 sums; i8: twice as many
    cache_rate: int  # bytes a cycle from the second-level cache, where all multiprocessors read at once
    memory_rate: float  # bytes a cycle from device memory, likewise
    fp8: bool = True  # tensor cores multiply e4m3, ordinary cores convert it
    machine_code: bool = True  # compiled ahead of time into engine files; else only by PyTorch on first use

    @property
    def name(self) -> str:
        return f"sm_{self.architecture}"


#: Every target that kernels have tactics for.
ALL_TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(80, "A100", "mma", "mma", 108, 163 << 10, 1024, 32, 13.0, fp8=False, machine_code=False),
        Target(86, "GeForce RTX 30", "mma", "mma", 28, 99 << 10, 256, 24, 7.0, fp8=False, machine_code=False),
        Target(87, "Jetson Orin", "mma", "mma", 16, 163 << 10, 1024, 32, 9.8, fp8=False),  # Orin Nano has 8
        Target(89, "GeForce RTX 40", "mma", "mma", 128, 99 << 10, 256, 16, 3.1),
        Target(90, "H100, H200", "wgmma", "warp_group", 132, 227 << 10, 2048, 24, 14.9),
        Target(110, "Jetson Thor", "tcgen05", "warp_group", 20, 227 << 10, 4096, 48, 9.0),
        Target(120, "GeForce RTX 50", "mma", "mma_sm_120", 170, 99 << 10, 256, 18, 4.4),
    )
}
#: Those with machine code in engine files. The compiler ends the whole process at some targets that it does not know.
TARGETS: Mapping[str, Target] = {name: target for name, target in ALL_TARGETS.items() if target.machine_code}


@dataclass(frozen=True)
class Gpu:
    """A product: dense peaks (FLOP/s by matmul format, f32 on ordinary cores), bytes/s, bytes. Datasheet figures."""

    name: str
    target: str
    driver_name: str  # part of what the driver calls it
    f32: float
    bf16: float  # f16 too
    eight_bit: float  # i8, and e4m3 with f32 sums where the target has it
    bandwidth: float
    memory: float  # shared with everything else on the machine
    cache: float  # nominal bytes of L2
    measured: bool = False  # the peaks and the bandwidth are measurements

    @property
    def peaks(self) -> Mapping[ProductType, float]:
        """FLOP/s of the formats that it has."""
        peaks: dict[ProductType, float] = {"f32": self.f32, "bf16": self.bf16, "f16": self.bf16, "i8": self.eight_bit}
        return {**peaks, "f8": self.eight_bit} if ALL_TARGETS[self.target].fp8 else peaks


# L2 sizes as published in secondary sources: 4 MiB on AGX Orin (deviceQuery reports 4194304 bytes), 72 MiB on the 4090,
# 50 MiB on H100 and H200; Thor: 32 MiB, which its driver reports (NVIDIA's developer forum, thread 356355). Orin Nano:
# half of AGX Orin's, an assumption.
GPUS: Mapping[str, Gpu] = {
    "orin": Gpu("Jetson AGX Orin 64 GB", "sm_87", "Orin", 5.3e12, 42.5e12, 85e12, 204e9, 64e9, 4 << 20),
    "orin-nano": Gpu("Jetson Orin Nano Super 8 GB", "sm_87", "Orin", 2.1e12, 17e12, 33e12, 102e9, 8e9, 2 << 20),
    "thor": Gpu("Jetson Thor T5000", "sm_110", "Thor", 8.1e12, 258e12, 517e12, 273e9, 128e9, 32 << 20),
    "4090": Gpu("GeForce RTX 4090", "sm_89", "4090", 82.6e12, 165e12, 330e12, 1008e9, 24e9, 72 << 20),
    "h100": Gpu("H100 SXM", "sm_90", "H100", 66.9e12, 790e12, 1580e12, 3000e9, 80e9, 50 << 20, measured=True),
    "h200": Gpu("H200", "sm_90", "H200", 66.9e12, 790e12, 1580e12, 4800e9, 141e9, 50 << 20),
}


def describe(targets: Mapping[str, Target] = TARGETS) -> str:
    """The targets in words: "sm_87 (Jetson Orin), ..."."""
    return ", ".join(f"{name} ({target.gpus})" for name, target in targets.items())


def tuned_target(kernel: str, name: str) -> Target:
    """The target of this name. ValueError, which names the kernel, for one without tactics."""
    target = ALL_TARGETS.get(name)
    if target is None:
        raise ValueError(f"{kernel}: no tactics for target {name!r}; known: {', '.join(ALL_TARGETS)}")
    return target


def known_targets(names: Iterable[str]) -> tuple[str, ...]:
    """The targets without repetition, in their order. ValueError for none, and for one that is not in TARGETS."""
    unique = tuple(dict.fromkeys(names))
    for name in unique:
        if name not in TARGETS:
            raise ValueError(f"target {name!r} is unknown: use {describe()}")
    if not unique:
        raise ValueError(f"no target is given: use some of {describe()}")
    return unique


def lacking(tasks: Iterable[Task], targets: Iterable[str]) -> tuple[str, ...]:
    """The targets that lack a format of some task."""
    fp8 = any(argument.dtype == "f8" for task in tasks for argument in task.arguments)
    return tuple(name for name in targets if fp8 and not TARGETS[name].fp8)


def check_formats(tasks: Iterable[Task], targets: Iterable[str]) -> None:
    """ValueError for a target that lacks a format of a task."""
    for name in lacking(tasks, targets):
        having = ", ".join(other for other, target in TARGETS.items() if target.fp8)
        raise ValueError(
            f"target {name} ({TARGETS[name].gpus}) has no fp8 matmuls, which {having} have: leave it out, or make an "
            "int8 engine for it (lightwam quantize --format int8)"
        )
