# SPDX-License-Identifier: Apache-2.0
"""A measurement on the terminal, and records as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightwam import pictures
from lightwam.bench.figures import Record
from lightwam.bench.measure import Measurement
from lightwam.terminal import table


def where(record: Record) -> str:
    """What ran."""
    return f"{record.threads} thread(s)" if record.threads else "GPU"


def print_table(measurement: Measurement, title: str) -> None:
    """Percentiles of every stage, what ran, start-up and memory on the terminal."""
    record = measurement.record
    rows = [
        (stage, *(f"{value * 1e3:.2f}" for value in (seconds.p50, seconds.p95, seconds.p99)))
        for stage, seconds in measurement.samples.items()
    ]
    print(table(("stage", "p50 ms", "p95 ms", "p99 ms"), rows, title))
    print(measurement.execution_info)
    memory = "unknown" if record.peak_memory_bytes is None else f"{record.peak_memory_bytes / 1e6:.0f} MB"
    print(
        f"ready after {record.load_seconds:.2f} s, first chunk after {record.first_chunk_seconds:.2f} s, "
        f"peak memory {memory}"
    )


def draw(records: list[Record], title: str, path: Path) -> bool:
    """The median of every stage as one stacked bar a record. False where that failed: see `pictures.draw`."""

    def fill(figure: Any) -> None:
        axes = figure.subplots()
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

    return pictures.draw(path, fill, size=(9, 1.4 + 0.8 * len(records)), dpi=150)
