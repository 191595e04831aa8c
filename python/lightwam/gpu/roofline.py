# SPDX-License-Identifier: Apache-2.0
"""Predicted time of a plan on a device: each launch takes its matmuls at peak or its bytes at bandwidth.

A prediction, not a measurement: launches run one after the other but for a side stream, cost nothing to start, and
reach a given share of the roofline. FLOPs and bytes are the plan's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightwam.engine.graph import STAGES
from lightwam.gpu.report import LaunchCost, PlanCosts
from lightwam.gpu.side import LaunchSeconds, added_seconds
from lightwam.kernels.task import ProductType

#: What good kernels reach of the roofline; the other figure told is the whole of it.
SHARE = 0.6
#: The L2 cache's bandwidth in device memory's: a low assumption (2 to 5 are measured on discrete GPUs).
CACHE_SPEED = 2


@dataclass(frozen=True)
class Device:
    """A GPU's dense peaks (FLOP/s by product format) and bandwidth (byte/s): datasheet figures unless `measured`.

    `memory`: bytes that its policy may share with everything else on the machine. `cache`: nominal bytes of L2.
    """

    name: str
    peaks: Mapping[ProductType, float]
    bandwidth: float
    memory: float
    cache: float
    measured: bool = False


def _device(
    name: str, f32: float, bf16: float, eight_bit: float, bandwidth: float, memory: float, cache: float,
    measured: bool = False, float8: bool = True,
) -> Device:  # fmt: skip
    """TFLOP/s, GB/s, GB and MiB. float8: e4m3 products (f32 sums) run at the rate of i8 ones; else there are none."""
    peaks: dict[ProductType, float] = {
        "f32": f32 * 1e12,
        "bf16": bf16 * 1e12,
        "f16": bf16 * 1e12,
        "i8": eight_bit * 1e12,
    }
    if float8:
        peaks["f8"] = eight_bit * 1e12
    return Device(name, peaks, bandwidth * 1e9, memory * 1e9, cache * 2**20, measured)


# L2 sizes, nominal, as published in secondary sources (no data sheet was at hand): 4 MiB on AGX Orin (deviceQuery
# reports 4194304 bytes), 72 MiB on the 4090, 50 MiB on H100; Thor: 32 MiB, which its driver reports (NVIDIA's developer
# forum, thread 356355). Orin Nano: nothing found that says; half of AGX Orin's is an assumption.
#: f32 products run on the ordinary cores.
DEVICES: Mapping[str, Device] = {
    "orin": _device("Jetson AGX Orin 64 GB", 5.3, 42.5, 85, 204, 64, 4, float8=False),
    "orin-nano": _device("Jetson Orin Nano Super 8 GB", 2.1, 17, 33, 102, 8, 2, float8=False),
    "thor": _device("Jetson Thor T5000", 8.1, 258, 517, 273, 128, 32),
    "4090": _device("GeForce RTX 4090", 82.6, 165, 330, 1008, 24, 72),
    "h100": _device("H100 SXM", 66.9, 790, 1580, 3000, 80, 50, measured=True),
}


def launch_seconds(launch: LaunchCost, device: Device, through_memory: int | None = None) -> LaunchSeconds:
    """The launch at the whole of the roofline: its matmuls, and the longer of its bytes of memory and of the cache.

    `through_memory`: the bytes that the cache model leaves for memory; None: all of the launch's, from no cache.
    """
    matmul = 0.0 if launch.product_type == "none" else launch.flops / device.peaks[launch.product_type]
    memory = (launch.num_bytes if through_memory is None else through_memory) / device.bandwidth
    return LaunchSeconds(matmul, max(memory, launch.num_bytes / (CACHE_SPEED * device.bandwidth)))


def chunk_seconds(costs: PlanCosts, device: Device, through_memory: Sequence[int] | None = None) -> tuple[float, ...]:
    """What each launch adds to a chunk at the whole of the roofline, in order; of a side stream what does not hide.

    `through_memory`: bytes by launch from the cache model (`bytes_through_memory`); None: all through device memory.
    """
    moved = through_memory if through_memory is not None else [launch.num_bytes for launch in costs.launches]
    pairs = zip(costs.launches, moved, strict=True)
    return added_seconds(costs.side_stream, [launch_seconds(launch, device, size) for launch, size in pairs])


def predict(
    costs: PlanCosts, device: Device, share: float = 1.0, through_memory: Sequence[int] | None = None
) -> dict[str, float]:
    """Predicted seconds of a chunk by stage at a share of the roofline; arguments as of `chunk_seconds`."""
    seconds: dict[str, float] = {}
    for launch, taken in zip(costs.launches, chunk_seconds(costs, device, through_memory), strict=True):
        seconds[launch.stage] = seconds.get(launch.stage, 0.0) + taken / share
    return {stage: seconds[stage] for stage in STAGES if stage in seconds}
