# SPDX-License-Identifier: Apache-2.0
"""Predicted time of a plan on a GPU: each launch takes its matmuls at peak or its bytes at bandwidth.

Not a measurement: launches run one after the other but for a side stream, cost nothing to start, and reach a given
share of the roofline. FLOPs and bytes are the plan's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightwam.engine.file import read_engine
from lightwam.engine.graph import STAGES
from lightwam.errors import ConfigError
from lightwam.gpu.cache import bytes_through_memory
from lightwam.gpu.lower import lower
from lightwam.gpu.report import LaunchCost, PlanCosts, plan_costs
from lightwam.gpu.side import LaunchSeconds, added_seconds, parts
from lightwam.kernels.targets import GPUS, Gpu

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


class LaunchPrediction(NamedTuple):
    """A launch, and the seconds that it adds to a chunk: all through memory, and with the cache model.

    `through_memory`: bytes that the cache model leaves for device memory.
    """

    launch: LaunchCost
    seconds: float
    through_memory: int
    seconds_with_cache: float


@dataclass(frozen=True)
class Prediction:
    """A chunk of `engine` on `gpu`, at the whole of the roofline."""

    engine: str
    precision: str
    gpu: Gpu
    costs: PlanCosts
    through_memory: tuple[int, ...]

    def launches(self) -> list[LaunchPrediction]:
        """In order."""
        seconds, with_cache = (chunk_seconds(self.costs, self.gpu, moved) for moved in (None, self.through_memory))
        rows = zip(self.costs.launches, seconds, self.through_memory, with_cache, strict=True)
        return [LaunchPrediction(*row) for row in rows]

    def hidden_seconds(self) -> list[tuple[float, float]]:
        """Of the side stream: seconds that hide behind other launches, and all its seconds; without and with cache."""
        side, _, _ = parts(self.costs.side_stream, self.costs.launches)
        found = []
        for moved in ([launch.num_bytes for launch in self.costs.launches], self.through_memory):
            pairs = zip(side, moved, strict=False)  # the side stream is launched first
            alone = sum(launch_seconds(launch, self.gpu, size).alone for launch, size in pairs)
            shown = sum(chunk_seconds(self.costs, self.gpu, moved)[: len(side)])
            found.append((alone - shown, alone))
        return found

    def to_json(self) -> dict[str, Any]:
        """The contents of roofline.json; of each launch the seconds that it adds to a chunk."""
        costs, gpu, side = self.costs, self.gpu, self.costs.side_stream

        def by_stage(moved: tuple[int, ...] | None) -> dict[str, dict[str, float]]:
            return {str(share): predict(costs, gpu, share, moved) for share in (1.0, SHARE)}

        return {
            "kind": "prediction",
            "engine": self.engine,
            "device": {
                "name": gpu.name, "peaks": dict(gpu.peaks), "bandwidth": gpu.bandwidth, "memory": gpu.memory,
                "cache": gpu.cache,
            },
            "text_rows": costs.text_rows,
            "seconds": by_stage(None),
            "seconds_with_cache": by_stage(self.through_memory),
            "bytes": costs.num_bytes,
            "bytes_with_cache": sum(self.through_memory),
            "bound_bytes": costs.bound,
            "memory": dict(costs.memory),
            "side": None if side is None else vars(side),
            "launches": [
                {
                    "name": launch.name, "stage": launch.stage, "kernel": launch.kernel, "flops": launch.flops,
                    "product_type": launch.product_type, "bytes": launch.num_bytes,
                    "seconds": seconds, "bytes_with_cache": num_bytes, "seconds_with_cache": with_cache,
                }
                for launch, seconds, num_bytes, with_cache in self.launches()
            ],
        }  # fmt: skip


def predict_engine(engine: Path, gpu_name: str) -> Prediction:
    """Lower the engine's graph and predict a chunk on one of `GPUS`. Nothing is measured.

    Raises `EngineError` for a file that is no engine, `ConfigError` for formats that the GPU lacks, `ExportError` for
    an op that no kernel computes.
    """
    graph, gpu = read_engine(engine), GPUS[gpu_name]
    plan = lower(graph)
    needed = {planned.task.product_type for planned in plan.tasks} - {"none"}
    if lacking := sorted(needed - set(gpu.peaks)):
        raise ConfigError(
            f"--device {gpu_name}: {gpu.name} has no {lacking[0]} matmuls, which engine {engine.name} needs: "
            "take an int8 engine (lightwam quantize --format int8)"
        )
    costs = plan_costs(plan, graph)
    moved = bytes_through_memory(plan, costs.text_rows, gpu.cache)
    return Prediction(engine.name, graph.precision, gpu, costs, moved)
