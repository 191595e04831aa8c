# SPDX-License-Identifier: Apache-2.0
"""Predicted time of a plan on a device: each launch takes its products at peak or its bytes at bandwidth.

A prediction, not a measurement: launches run one after the other, cost nothing to start, and reach a given share of
the roofline. FLOPs and bytes are the plan's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightwam.export.gpu.report import LaunchCost, PlanCosts
from lightwam.kernels.task import ProductType

#: What good kernels reach of the roofline; the other figure told is the whole of it.
SHARE = 0.6


@dataclass(frozen=True)
class Device:
    """A GPU's dense peaks (FLOP/s by product format) and bandwidth (byte/s): datasheet figures unless `measured`.

    `memory`: bytes that its policy may share with everything else on the machine.
    """

    name: str
    peaks: Mapping[ProductType, float]
    bandwidth: float
    memory: float
    measured: bool = False


def _device(
    name: str, f32: float, bf16: float, eight_bit: float, bandwidth: float, memory: float, measured: bool = False
) -> Device:
    """TFLOP/s, GB/s and GB."""
    peaks: dict[ProductType, float] = {
        "f32": f32 * 1e12,
        "bf16": bf16 * 1e12,
        "f16": bf16 * 1e12,
        "i8": eight_bit * 1e12,
    }
    return Device(name, peaks, bandwidth * 1e9, memory * 1e9, measured)


#: f32 products run on the ordinary cores.
DEVICES: Mapping[str, Device] = {
    "orin": _device("Jetson AGX Orin 64 GB", 5.3, 42.5, 85, 204, 64),
    "orin-nano": _device("Jetson Orin Nano Super 8 GB", 2.1, 17, 33, 102, 8),
    "thor": _device("Jetson Thor T5000", 8.1, 258, 517, 273, 128),
    "4090": _device("GeForce RTX 4090", 82.6, 165, 330, 1008, 24),
    "h100": _device("H100 SXM", 66.9, 790, 1580, 3000, 80, measured=True),
}


def launch_seconds(launch: LaunchCost, device: Device) -> float:
    """The launch at the whole of the roofline; the longer of its products and its bytes."""
    products = 0.0 if launch.product_type == "none" else launch.flops / device.peaks[launch.product_type]
    return max(products, launch.num_bytes / device.bandwidth)


def predict(costs: PlanCosts, device: Device, share: float = 1.0) -> dict[str, float]:
    """Predicted seconds of a chunk by stage, in order of execution, at a share of the roofline."""
    seconds: dict[str, float] = {}
    for launch in costs.launches:
        seconds[launch.stage] = seconds.get(launch.stage, 0.0) + launch_seconds(launch, device) / share
    return seconds
