# SPDX-License-Identifier: Apache-2.0
"""Predicted time of a plan on a device: each launch takes its matmuls at peak or its bytes at bandwidth.

A prediction, not a measurement: launches run one after the other but for a side stream, cost nothing to start, and
reach a given share of the roofline. FLOPs and bytes are the plan's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightwam.engine.graph import STAGES
from lightwam.gpu.report import LaunchCost, PlanCosts
from lightwam.gpu.side import LaunchSeconds, added_seconds
from lightwam.kernels.targets import Gpu

#: What good kernels reach of the roofline; the other figure told is the whole of it.
SHARE = 0.6
#: The L2 cache's bandwidth in device memory's: a low assumption (2 to 5 are measured on discrete GPUs).
CACHE_SPEED = 2


def launch_seconds(launch: LaunchCost, gpu: Gpu, through_memory: int | None = None) -> LaunchSeconds:
    """The launch at the whole of the roofline: its matmuls, and the longer of its bytes of memory and of the cache.

    `through_memory`: the bytes that the cache model leaves for memory; None: all of the launch's, from no cache.
    """
    matmul = 0.0 if launch.product_type == "none" else launch.flops / gpu.peaks[launch.product_type]
    memory = (launch.num_bytes if through_memory is None else through_memory) / gpu.bandwidth
    return LaunchSeconds(matmul, max(memory, launch.num_bytes / (CACHE_SPEED * gpu.bandwidth)))


def chunk_seconds(costs: PlanCosts, gpu: Gpu, through_memory: Sequence[int] | None = None) -> tuple[float, ...]:
    """What each launch adds to a chunk at the whole of the roofline, in order; of a side stream what does not hide.

    `through_memory`: bytes by launch from the cache model (`bytes_through_memory`); None: all through device memory.
    """
    moved = through_memory if through_memory is not None else [launch.num_bytes for launch in costs.launches]
    pairs = zip(costs.launches, moved, strict=True)
    return added_seconds(costs.side_stream, [launch_seconds(launch, gpu, size) for launch, size in pairs])


def predict(
    costs: PlanCosts, gpu: Gpu, share: float = 1.0, through_memory: Sequence[int] | None = None
) -> dict[str, float]:
    """Predicted seconds of a chunk by stage at a share of the roofline; arguments as of `chunk_seconds`."""
    seconds: dict[str, float] = {}
    for launch, taken in zip(costs.launches, chunk_seconds(costs, gpu, through_memory), strict=True):
        seconds[launch.stage] = seconds.get(launch.stage, 0.0) + taken / share
    return {stage: seconds[stage] for stage in STAGES if stage in seconds}
