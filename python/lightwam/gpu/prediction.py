# SPDX-License-Identifier: Apache-2.0
"""The predicted chunk of an engine file on a GPU that need not be here, as data (`lightwam bench --roofline`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightwam.engine.file import read_engine
from lightwam.engine.graph import STAGES
from lightwam.errors import ConfigError
from lightwam.gpu.cache import bytes_through_memory
from lightwam.gpu.lower import lower
from lightwam.gpu.report import LaunchCost, PlanCosts, plan_costs
from lightwam.gpu.roofline import SHARE, chunk_seconds, launch_seconds, predict
from lightwam.gpu.side import parts
from lightwam.kernels.targets import GPUS, Gpu


class LaunchPrediction(NamedTuple):
    """A launch, and the seconds that it adds to a chunk: all through memory, and with the cache model.

    `through_memory`: bytes that the cache model leaves for device memory.
    """

    launch: LaunchCost
    seconds: float
    through_memory: int
    seconds_with_cache: float


class Sums(NamedTuple):
    """Of some launches: how many, FLOPs, bytes and seconds without and with the cache model."""

    launches: int
    flops: int
    num_bytes: int
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
        costs, moved = self.costs, self.through_memory
        seconds = chunk_seconds(costs, self.gpu), chunk_seconds(costs, self.gpu, moved)
        return [LaunchPrediction(*row) for row in zip(costs.launches, seconds[0], moved, seconds[1], strict=True)]

    def by_kernel(self) -> dict[str, dict[str, list[LaunchPrediction]]]:
        """Stage -> kernel -> launches, both in the order of a chunk."""
        found: dict[str, dict[str, list[LaunchPrediction]]] = {stage: {} for stage in STAGES}
        for row in self.launches():
            found[row.launch.stage].setdefault(row.launch.kernel, []).append(row)
        return {stage: kernels for stage, kernels in found.items() if kernels}

    def hidden_seconds(self) -> list[tuple[float, float]]:
        """Of the side stream: seconds that hide behind other launches, and all its seconds; without and with cache."""
        side, _, _ = parts(self.costs.side_stream, self.costs.launches)
        found = []
        for moved in (None, self.through_memory):
            sizes: Sequence[int | None] = [None] * len(side) if moved is None else moved[: len(side)]
            pairs = zip(side, sizes, strict=True)
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
            "side": None if side is None else {"launches": side.launches, "join": side.join},
            "launches": [
                {
                    "name": launch.name, "stage": launch.stage, "kernel": launch.kernel, "flops": launch.flops,
                    "product_type": launch.product_type, "bytes": launch.num_bytes,
                    "seconds": seconds, "bytes_with_cache": num_bytes, "seconds_with_cache": with_cache,
                }
                for launch, seconds, num_bytes, with_cache in self.launches()
            ],
        }  # fmt: skip


def sums(rows: Iterable[LaunchPrediction]) -> Sums:
    """The figures of several launches together."""
    found = list(rows)
    return Sums(
        len(found),
        sum(row.launch.flops for row in found),
        sum(row.launch.num_bytes for row in found),
        sum(row.seconds for row in found),
        sum(row.through_memory for row in found),
        sum(row.seconds_with_cache for row in found),
    )


def predict_engine(engine: Path, gpu_name: str, cache_model: bool = True) -> Prediction:
    """Lower the engine's graph and predict a chunk on one of `GPUS`. Nothing is measured.

    `cache_model`: whether bytes may come from the cache (cache.py); without it all go through device memory.
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
    moved = tuple(launch.num_bytes for launch in costs.launches)
    if cache_model:
        moved = bytes_through_memory(plan, costs.text_rows, gpu.cache)
    return Prediction(engine.name, graph.precision, gpu, costs, moved)
