# SPDX-License-Identifier: Apache-2.0
"""What choices of tactics need to know about a target's usual GPU. Rough numbers: they only order candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LATENCY = 900  # cycles from asking device memory for bytes to having them
REGISTERS = 65536  # of a multiprocessor
MOST_WARPS = 48  # of a multiprocessor at a time; some have 64


@dataclass(frozen=True)
class Device:
    """Numbers of one multiprocessor, a cycle."""

    multiprocessors: int
    products: int  # bf16 multiply-adds of the matrix units, sums in f32; i8: twice as many
    cache_bytes: int  # from the second-level cache, where all multiprocessors read at once
    memory_bytes: float  # from device memory, likewise
    shared_bytes: int  # shared memory that a program may have
    unit: Literal["mma", "wgmma", "tcgen05"]  # mma takes operands from registers, the others from shared memory


DEVICES = {
    "sm_80": Device(108, 1024, 32, 13.0, 163 << 10, "mma"),  # A100
    "sm_86": Device(28, 256, 24, 7.0, 99 << 10, "mma"),  # RTX 3060
    "sm_87": Device(16, 1024, 32, 9.8, 163 << 10, "mma"),  # AGX Orin; Orin Nano has 8
    "sm_89": Device(128, 256, 16, 3.1, 99 << 10, "mma"),  # RTX 4090
    "sm_90": Device(132, 2048, 24, 14.9, 227 << 10, "wgmma"),  # H100
    "sm_110": Device(20, 4096, 48, 9.0, 227 << 10, "tcgen05"),  # Thor
    "sm_120": Device(170, 256, 18, 4.4, 99 << 10, "mma"),  # RTX 5090
}
