# SPDX-License-Identifier: Apache-2.0
"""`lightwam bench --roofline`: the predicted time of an engine file's launch plan on a GPU that need not be here."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lightwam.errors import ConfigError
from lightwam.kernels.targets import GPUS, Gpu

if TYPE_CHECKING:
    from lightwam.gpu.report import LaunchCost, PlanCosts

    ModelledGpu = str
else:
    ModelledGpu = Literal[tuple(GPUS)]


def main(engine: Path, gpu_name: ModelledGpu, out: Path | None) -> int:
    """Lower the engine's graph, print the table, write `roofline.json` into `out` if given; returns the exit status.

    Raises `ConfigError` without Triton, `EngineError` for a file that is no engine, `ExportError` for one that no
    kernel computes.
    """
    try:
        from lightwam.gpu.cache import bytes_through_memory
        from lightwam.gpu.lower import lower
        from lightwam.gpu.report import plan_costs
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--roofline: the module {error.name!r} is not installed: pip install 'lightwam[gpu]'"
        ) from None
    from lightwam.engine.file import read_engine

    graph, gpu = read_engine(engine), GPUS[gpu_name]
    plan = lower(graph)
    needed = {planned.task.product_type for planned in plan.tasks} - {"none"}
    if lacking := sorted(needed - set(gpu.peaks)):
        raise ConfigError(
            f"--device {gpu_name}: {gpu.name} has no {lacking[0]} products, which engine {engine.name} needs: "
            "take an int8 engine (lightwam quantize --format int8)"
        )
    costs = plan_costs(plan, graph)
    through_memory = bytes_through_memory(plan, costs.text_rows, gpu.cache)
    print_prediction(costs, through_memory, gpu, f"{engine.name}, {graph.precision}")
    if out is not None:
        write_prediction(costs, through_memory, gpu, engine.name, out / "roofline.json")
        print(f"wrote {out / 'roofline.json'}")
    return 0


def print_prediction(costs: PlanCosts, through_memory: Sequence[int], gpu: Gpu, what: str) -> None:
    """Launches, FLOPs, bytes, predicted times without and with the cache model, by stage and kernel; bound; memory."""
    from rich.console import Console
    from rich.table import Table

    from lightwam.engine.graph import STAGES
    from lightwam.gpu.roofline import SHARE, chunk_seconds

    columns = ("MB", "ms, 100 %", f"ms, {SHARE:.0%}")
    headings = ("stage", "launches", "GFLOP", *columns, *(f"{column}, cache" for column in columns))
    table = Table(*headings, title=f"Prediction, not a measurement: {what}, {gpu.name}")
    seconds, with_cache = chunk_seconds(costs, gpu), chunk_seconds(costs, gpu, through_memory)
    rows = [_Row(*row) for row in zip(costs.launches, seconds, through_memory, with_cache, strict=True)]
    for stage in STAGES:
        of_stage = [row for row in rows if row.launch.stage == stage]
        if not of_stage:
            continue
        table.add_row(stage, *_figures(of_stage), style="bold")
        for kernel in dict.fromkeys(row.launch.kernel for row in of_stage):
            table.add_row(f"  {kernel}", *_figures([row for row in of_stage if row.launch.kernel == kernel]))
        table.add_section()
    table.add_row("chunk", *_figures(rows))
    console = Console()
    console.print(table)
    source = "measured" if gpu.measured else "from data sheets"
    memory = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in costs.memory.items())
    fits = "fits" if costs.peak_memory < gpu.memory else "does not fit"
    console.print(
        f"An instruction of {costs.text_rows} rows. Peaks and bandwidth are {source}; a launch takes the longest of "
        f"its products, its bytes of memory and of the cache, and nothing to start.\n"
        f"MB and ms: all through device memory; with 'cache': the cache model, which keeps what was used last in half "
        f"of the nominal {gpu.cache / 2**20:.0f} MiB.\n"
        f"{_side_text(costs, through_memory, gpu)}"
        f"All through memory: {costs.num_bytes / 1e6:.0f} MB, {costs.num_bytes / costs.bound:.2f} of the least that "
        f"fused groups can move.\n"
        f"Device memory {costs.peak_memory / 1e6:.0f} MB, {fits} in {gpu.memory / 1e9:.0f} GB; without machine "
        f"code and driver: {memory}.",
        highlight=False,
    )


def _side_text(costs: PlanCosts, through_memory: Sequence[int], gpu: Gpu) -> str:
    """How much of a side branch is predicted to hide, as a line; empty without one."""
    from lightwam.gpu.roofline import SHARE, chunk_seconds, launch_seconds

    if costs.side is None:
        return ""
    branch = costs.launches[: costs.side.launches]
    told = []
    for moved in (None, through_memory):
        sizes = moved if moved is not None else [None] * len(branch)
        alone = sum(launch_seconds(launch, gpu, size) for launch, size in zip(branch, sizes, strict=False))
        shown = sum(chunk_seconds(costs, gpu, moved)[: len(branch)])
        told.append(f"{1e3 * (alone - shown) / SHARE:.2f} of {1e3 * alone / SHARE:.2f} ms")
    return (
        f"Side branch: {len(branch)} launches, {sum(launch.num_bytes for launch in branch) / 1e6:.0f} MB, beside "
        f"{costs.side.join - len(branch)} others: while those wait for their products, {told[0]} at {SHARE:.0%} hide "
        f"({told[1]} with the cache), if the GPU runs both at once; ms are what is left.\n"
    )


class _Row(NamedTuple):
    """A launch: what it adds to a chunk all through memory, and with the cache model."""

    launch: LaunchCost
    seconds: float
    through_memory: int
    with_cache: float


def _figures(rows: Sequence[_Row]) -> list[str]:
    from lightwam.gpu.roofline import SHARE

    def cells(num_bytes: int, seconds: float) -> list[str]:
        return [f"{num_bytes / 1e6:.1f}", f"{1e3 * seconds:.2f}", f"{1e3 * seconds / SHARE:.2f}"]

    return [
        str(len(rows)),
        f"{sum(row.launch.flops for row in rows) / 1e9:.1f}",
        *cells(sum(row.launch.num_bytes for row in rows), sum(row.seconds for row in rows)),
        *cells(sum(row.through_memory for row in rows), sum(row.with_cache for row in rows)),
    ]


def write_prediction(costs: PlanCosts, through_memory: Sequence[int], gpu: Gpu, engine: str, path: Path) -> None:
    """The prediction as JSON, under a temporary name first; of each launch the seconds that it adds to a chunk."""
    from lightwam.gpu.roofline import SHARE, chunk_seconds, predict

    side = costs.side
    document: dict[str, Any] = {
        "kind": "prediction",
        "engine": engine,
        "device": {
            "name": gpu.name, "peaks": dict(gpu.peaks), "bandwidth": gpu.bandwidth, "memory": gpu.memory,
            "cache": gpu.cache,
        },
        "text_rows": costs.text_rows,
        "seconds": {"1.0": predict(costs, gpu), str(SHARE): predict(costs, gpu, SHARE)},
        "seconds_with_cache": {
            "1.0": predict(costs, gpu, 1.0, through_memory),
            str(SHARE): predict(costs, gpu, SHARE, through_memory),
        },
        "bytes": costs.num_bytes,
        "bytes_with_cache": sum(through_memory),
        "bound_bytes": costs.bound,
        "memory": dict(costs.memory),
        "side": None if side is None else {"launches": side.launches, "join": side.join},
        "launches": [
            {
                "name": launch.name, "stage": launch.stage, "kernel": launch.kernel, "flops": launch.flops,
                "product_type": launch.product_type, "bytes": launch.num_bytes,
                "seconds": seconds, "bytes_with_cache": num_bytes, "seconds_with_cache": with_cache,
            }
            for launch, seconds, num_bytes, with_cache in zip(
                costs.launches, chunk_seconds(costs, gpu), through_memory,
                chunk_seconds(costs, gpu, through_memory), strict=True,
            )
        ],
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(temporary, path)
