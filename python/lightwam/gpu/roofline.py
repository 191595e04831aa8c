# SPDX-License-Identifier: Apache-2.0
"""Predicted time of a plan on a GPU: each launch takes its products at peak or its bytes at bandwidth.

A prediction, not a measurement: launches run one after the other but for a side branch, cost nothing to start, and
reach a given share of the roofline. FLOPs and bytes are the plan's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightwam.engine.graph import STAGES
from lightwam.gpu.report import LaunchCost, PlanCosts
from lightwam.kernels.targets import Gpu

#: What good kernels reach of the roofline; the other figure told is the whole of it.
SHARE = 0.6
#: The L2 cache's bandwidth in device memory's: a low assumption (2 to 5 are measured on discrete GPUs).
CACHE_SPEED = 2


def launch_seconds(launch: LaunchCost, gpu: Gpu, through_memory: int | None = None) -> float:
    """The launch at the whole of the roofline; the longest of its products, its bytes of memory and those of the cache.

    `through_memory`: the bytes that the cache model leaves for memory; None: all of the launch's, from no cache.
    """
    return max(_product_seconds(launch, gpu), _memory_seconds(launch, gpu, through_memory))


def _product_seconds(launch: LaunchCost, gpu: Gpu) -> float:
    return 0.0 if launch.product_type == "none" else launch.flops / gpu.peaks[launch.product_type]


def _memory_seconds(launch: LaunchCost, gpu: Gpu, through_memory: int | None) -> float:
    memory = (launch.num_bytes if through_memory is None else through_memory) / gpu.bandwidth
    return max(memory, launch.num_bytes / (CACHE_SPEED * gpu.bandwidth))


def chunk_seconds(costs: PlanCosts, gpu: Gpu, through_memory: Sequence[int] | None = None) -> tuple[float, ...]:
    """What each launch adds to a chunk at the whole of the roofline, in order.

    Launches run one after the other, but for a side branch: its bytes move while the launches beside it have the memory
    to spare (their products take longer than their bytes); only the rest of its time counts, spread over its launches.
    Its products hide nowhere. `through_memory`: bytes by launch from the cache model (`bytes_through_memory`); None:
    all through device memory.
    """
    moved = through_memory if through_memory is not None else [launch.num_bytes for launch in costs.launches]
    alone = [launch_seconds(launch, gpu, size) for launch, size in zip(costs.launches, moved, strict=True)]
    if costs.side is None:
        return tuple(alone)
    count, join = costs.side.launches, costs.side.join
    beside = zip(alone[count:join], costs.launches[count:join], moved[count:join], strict=True)
    spare = sum(seconds - _memory_seconds(launch, gpu, size) for seconds, launch, size in beside)
    branch = zip(alone[:count], costs.launches[:count], strict=True)
    hideable = sum(seconds - _product_seconds(launch, gpu) for seconds, launch in branch)
    shown = 1 - min(spare, hideable) / sum(alone[:count])
    return (*(seconds * shown for seconds in alone[:count]), *alone[count:])


def predict(
    costs: PlanCosts, gpu: Gpu, share: float = 1.0, through_memory: Sequence[int] | None = None
) -> dict[str, float]:
    """Predicted seconds of a chunk by stage at a share of the roofline; arguments as of `chunk_seconds`."""
    seconds: dict[str, float] = {}
    for launch, taken in zip(costs.launches, chunk_seconds(costs, gpu, through_memory), strict=True):
        seconds[launch.stage] = seconds.get(launch.stage, 0.0) + taken / share
    return {stage: seconds[stage] for stage in STAGES if stage in seconds}
