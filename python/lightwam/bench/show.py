# SPDX-License-Identifier: Apache-2.0
"""A measurement on the terminal, and records as a picture."""

from __future__ import annotations

from pathlib import Path

from lightwam.bench.figures import Record
from lightwam.bench.measure import Measurement
from lightwam.files import replacing_file


def where(record: Record) -> str:
    """What ran."""
    return f"{record.threads} thread(s)" if record.threads else "GPU"


def print_table(measurement: Measurement, title: str) -> None:
    """Percentiles of every stage, what ran, start-up and memory on the terminal."""
    from rich.console import Console
    from rich.table import Table

    record = measurement.record
    table = Table("stage", "p50 ms", "p95 ms", "p99 ms", title=title)
    for stage, seconds in measurement.samples.items():
        table.add_row(stage, *(f"{value * 1e3:.2f}" for value in (seconds.p50, seconds.p95, seconds.p99)))
    console = Console()
    console.print(table)
    console.print(measurement.execution_info, markup=False, highlight=False, soft_wrap=True)
    memory = "unknown" if record.peak_memory_bytes is None else f"{record.peak_memory_bytes / 1e6:.0f} MB"
    console.print(
        f"ready after {record.load_seconds:.2f} s, first chunk after {record.first_chunk_seconds:.2f} s, "
        f"peak memory {memory}",
        highlight=False,
    )


def draw(records: list[Record], title: str, path: Path) -> None:
    """The median of every stage as one stacked bar a record."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 1.4 + 0.8 * len(records)), layout="constrained")
    for row, record in enumerate(records):
        left = 0.0
        axes.set_prop_cycle(None)  # the same colours in every bar
        for stage, seconds in (record.stages or {"chunk": record.seconds.p50}).items():
            label = f"{stage} {seconds * 1e3:.1f} ms" if row == 0 else None
            axes.barh([row], [seconds * 1e3], left=left, label=label)
            left += seconds * 1e3
    axes.set_yticks(range(len(records)), [where(record) for record in records])
    axes.invert_yaxis()
    axes.set_xlabel("median of one chunk, ms")
    axes.set_title(title)
    figure.legend(ncols=5, loc="outside lower center", frameon=False)
    with replacing_file(path) as part:
        figure.savefig(part, dpi=150)
    pyplot.close(figure)
