# SPDX-License-Identifier: Apache-2.0
"""`lightwam bench --roofline`: the predicted time of an engine file's launch plan on a GPU that need not be here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightwam.errors import ConfigError

if TYPE_CHECKING:
    from lightwam.export.gpu.report import LaunchCost, PlanCosts
    from lightwam.export.gpu.roofline import Device

DeviceName = Literal["orin", "orin-nano", "thor", "4090", "h100"]


def main(engine: Path, device_name: DeviceName, out: Path | None) -> int:
    """Lower the engine's graph, print the table, write `roofline.json` into `out` if given; returns the exit status.

    Raises `ConfigError` without Triton, `EngineError` for a file that is no engine, `ExportError` for one that no
    kernel computes.
    """
    try:
        from lightwam.export.gpu.lower import lower
        from lightwam.export.gpu.report import plan_costs
        from lightwam.export.gpu.roofline import DEVICES
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--roofline: the module {error.name!r} is not installed: pip install 'lightwam[gpu]'"
        ) from None
    from lightwam.export.engine import read_engine

    graph, device = read_engine(engine), DEVICES[device_name]
    costs = plan_costs(lower(graph), graph)
    print_prediction(costs, device, f"{engine.name}, {graph.precision}")
    if out is not None:
        write_prediction(costs, device, engine.name, out / "roofline.json")
        print(f"wrote {out / 'roofline.json'}")
    return 0


def print_prediction(costs: PlanCosts, device: Device, what: str) -> None:
    """Every stage's launches, FLOPs, bytes and predicted times; then bytes against their bound, and memory."""
    from rich.console import Console
    from rich.table import Table

    from lightwam.export.gpu.roofline import SHARE

    headings = ("stage", "launches", "GFLOP", "MB moved", "ms at 100 %", f"ms at {SHARE:.0%}")
    table = Table(*headings, title=f"Prediction, not a measurement: {what}, {device.name}")
    for stage, rows in _by_stage(costs):
        table.add_row(stage, *_figures(rows, device))
    table.add_section()
    table.add_row("chunk", *_figures(list(costs.launches), device))
    console = Console()
    console.print(table)
    source = "measured" if device.measured else "from data sheets"
    memory = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in costs.memory.items())
    console.print(
        f"An instruction of {costs.text_rows} rows. Peaks and bandwidth are {source}; a launch takes the longer of its "
        f"products and its bytes, and nothing to start.\n{costs.num_bytes / 1e6:.0f} MB through device memory, "
        f"{costs.num_bytes / costs.bound:.2f} of the least that fused groups can move.\n"
        f"Device memory {costs.peak_memory / 1e6:.0f} MB of {device.memory / 1e9:.0f} GB, without machine code: "
        f"{memory}.",
        highlight=False,
    )


def _by_stage(costs: PlanCosts) -> Iterator[tuple[str, list[LaunchCost]]]:
    for stage in dict.fromkeys(launch.stage for launch in costs.launches):
        yield stage, [launch for launch in costs.launches if launch.stage == stage]


def _figures(launches: list[LaunchCost], device: Device) -> list[str]:
    from lightwam.export.gpu.roofline import SHARE, launch_seconds

    milliseconds = 1e3 * sum(launch_seconds(launch, device) for launch in launches)
    gflop, megabytes = (
        sum(launch.flops for launch in launches) / 1e9,
        sum(launch.num_bytes for launch in launches) / 1e6,
    )
    return [
        str(len(launches)), f"{gflop:.1f}", f"{megabytes:.1f}", f"{milliseconds:.2f}", f"{milliseconds / SHARE:.2f}",
    ]  # fmt: skip


def write_prediction(costs: PlanCosts, device: Device, engine: str, path: Path) -> None:
    """The prediction launch by launch as JSON, under a temporary name first."""
    from lightwam.export.gpu.roofline import SHARE, launch_seconds, predict

    document: dict[str, Any] = {
        "kind": "prediction",
        "engine": engine,
        "device": {"name": device.name, "peaks": dict(device.peaks), "bandwidth": device.bandwidth},
        "text_rows": costs.text_rows,
        "seconds": {"1.0": predict(costs, device), str(SHARE): predict(costs, device, SHARE)},
        "bytes": costs.num_bytes,
        "bound_bytes": costs.bound,
        "memory": dict(costs.memory),
        "launches": [
            {
                "name": launch.name, "stage": launch.stage, "kernel": launch.kernel, "flops": launch.flops,
                "product_type": launch.product_type, "bytes": launch.num_bytes,
                "seconds": launch_seconds(launch, device),
            }
            for launch in costs.launches
        ],
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(temporary, path)
