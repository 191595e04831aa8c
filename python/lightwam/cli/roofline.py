# SPDX-License-Identifier: Apache-2.0
"""`lightwam bench --roofline`: the predicted time of an engine file's launch plan on a GPU that need not be here."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightwam.errors import ConfigError

if TYPE_CHECKING:
    from lightwam.export.gpu.report import LaunchCost, PlanCosts
    from lightwam.export.gpu.roofline import Device

ModelledGpu = Literal["orin", "orin-nano", "thor", "4090", "h100"]


def main(engine: Path, device_name: ModelledGpu, out: Path | None) -> int:
    """Lower the engine's graph, print the table, write `roofline.json` into `out` if given; returns the exit status.

    Raises `ConfigError` without Triton, `EngineError` for a file that is no engine, `ExportError` for one that no
    kernel computes.
    """
    try:
        from lightwam.export.gpu.cache import bytes_through_memory
        from lightwam.export.gpu.lower import lower
        from lightwam.export.gpu.report import plan_costs
        from lightwam.export.gpu.roofline import DEVICES
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--roofline: the module {error.name!r} is not installed: pip install 'lightwam[gpu]'"
        ) from None
    from lightwam.export.engine import read_engine

    graph, device = read_engine(engine), DEVICES[device_name]
    plan = lower(graph)
    costs = plan_costs(plan, graph)
    through_memory = bytes_through_memory(plan, costs.text_rows, device.cache)
    print_prediction(costs, through_memory, device, f"{engine.name}, {graph.precision}")
    if out is not None:
        write_prediction(costs, through_memory, device, engine.name, out / "roofline.json")
        print(f"wrote {out / 'roofline.json'}")
    return 0


def print_prediction(costs: PlanCosts, through_memory: Sequence[int], device: Device, what: str) -> None:
    """Launches, FLOPs, bytes, predicted times without and with the cache model, by stage and kernel; bound; memory."""
    from rich.console import Console
    from rich.table import Table

    from lightwam.export.gpu.roofline import SHARE

    columns = ("MB", "ms, 100 %", f"ms, {SHARE:.0%}")
    headings = ("stage", "launches", "GFLOP", *columns, *(f"{column}, cache" for column in columns))
    table = Table(*headings, title=f"Prediction, not a measurement: {what}, {device.name}")
    rows = list(zip(costs.launches, through_memory, strict=True))
    for stage in dict.fromkeys(launch.stage for launch in costs.launches):
        of_stage = [row for row in rows if row[0].stage == stage]
        table.add_row(stage, *_figures(of_stage, device), style="bold")
        for kernel in dict.fromkeys(launch.kernel for launch, _ in of_stage):
            table.add_row(f"  {kernel}", *_figures([row for row in of_stage if row[0].kernel == kernel], device))
        table.add_section()
    table.add_row("chunk", *_figures(rows, device))
    console = Console()
    console.print(table)
    source = "measured" if device.measured else "from data sheets"
    memory = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in costs.memory.items())
    fits = "fits" if costs.peak_memory < device.memory else "does not fit"
    console.print(
        f"An instruction of {costs.text_rows} rows. Peaks and bandwidth are {source}; a launch takes the longest of "
        f"its products, its bytes of memory and of the cache, and nothing to start.\n"
        f"MB and ms: all through device memory; with 'cache': the cache model, which keeps what was used last in half "
        f"of the nominal {device.cache / 2**20:.0f} MiB.\n"
        f"All through memory: {costs.num_bytes / 1e6:.0f} MB, {costs.num_bytes / costs.bound:.2f} of the least that "
        f"fused groups can move.\n"
        f"Device memory {costs.peak_memory / 1e6:.0f} MB, {fits} in {device.memory / 1e9:.0f} GB; without machine "
        f"code and driver: {memory}.",
        highlight=False,
    )


def _figures(rows: Sequence[tuple[LaunchCost, int]], device: Device) -> list[str]:
    from lightwam.export.gpu.roofline import SHARE, launch_seconds

    cells = [str(len(rows)), f"{sum(launch.flops for launch, _ in rows) / 1e9:.1f}"]
    for counted in ([(launch, launch.num_bytes) for launch, _ in rows], rows):
        milliseconds = 1e3 * sum(launch_seconds(launch, device, num_bytes) for launch, num_bytes in counted)
        megabytes = sum(num_bytes for _, num_bytes in counted) / 1e6
        cells += [f"{megabytes:.1f}", f"{milliseconds:.2f}", f"{milliseconds / SHARE:.2f}"]
    return cells


def write_prediction(costs: PlanCosts, through_memory: Sequence[int], device: Device, engine: str, path: Path) -> None:
    """The prediction launch by launch as JSON, under a temporary name first."""
    from lightwam.export.gpu.roofline import SHARE, launch_seconds, predict

    document: dict[str, Any] = {
        "kind": "prediction",
        "engine": engine,
        "device": {
            "name": device.name, "peaks": dict(device.peaks), "bandwidth": device.bandwidth, "memory": device.memory,
            "cache": device.cache,
        },
        "text_rows": costs.text_rows,
        "seconds": {"1.0": predict(costs, device), str(SHARE): predict(costs, device, SHARE)},
        "seconds_with_cache": {
            "1.0": predict(costs, device, 1.0, through_memory),
            str(SHARE): predict(costs, device, SHARE, through_memory),
        },
        "bytes": costs.num_bytes,
        "bytes_with_cache": sum(through_memory),
        "bound_bytes": costs.bound,
        "memory": dict(costs.memory),
        "launches": [
            {
                "name": launch.name, "stage": launch.stage, "kernel": launch.kernel, "flops": launch.flops,
                "product_type": launch.product_type, "bytes": launch.num_bytes,
                "seconds": launch_seconds(launch, device), "bytes_with_cache": num_bytes,
                "seconds_with_cache": launch_seconds(launch, device, num_bytes),
            }
            for launch, num_bytes in zip(costs.launches, through_memory, strict=True)
        ],
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(temporary, path)
