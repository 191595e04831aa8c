# SPDX-License-Identifier: Apache-2.0
"""The one JSON schema of every speed figure: of `lightwam bench`, `benchmarks/` and the C++ operations.

A file is {"schema": "lightwam-figures", "version": 1, "machine": {...}, "records": [...]};
docs/guides/measure-speed.md lists the fields of a record. Times are seconds, memory bytes; a field that was not
measured is null.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightwam.errors import ConfigError
from lightwam.file_kind import FileKind
from lightwam.files import check_output, replacing_file

SCHEMA, VERSION = "lightwam-figures", 1
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Seconds:
    """Times of `runs` equal pieces of work."""

    runs: int
    p50: float
    p95: float
    p99: float
    minimum: float

    @staticmethod
    def of(samples: Sequence[float]) -> Seconds:
        """Percentiles by linear interpolation; with few samples the upper ones are close to the largest."""
        p50, p95, p99 = (float(np.percentile(samples, p)) for p in PERCENTILES)
        return Seconds(len(samples), p50, p95, p99, float(min(samples)))


@dataclass(frozen=True)
class Record:
    """One figure. `stages`: stage -> median seconds. `flops`: matmuls of one piece of work, 2 a multiply-add."""

    suite: Literal["chunk", "operation"]
    name: str
    contender: str
    precision: str
    threads: int
    seconds: Seconds
    stages: Mapping[str, float] | None = None
    flops: float | None = None
    peak_flops: float | None = None
    load_seconds: float | None = None
    first_chunk_seconds: float | None = None
    peak_memory_bytes: int | None = None
    cosine: float | None = None
    relative_error: float | None = None

    @property
    def share_of_peak(self) -> float | None:
        """FLOPs a second, over what the machine's registers reach; None where either was not measured."""
        if not self.flops or not self.peak_flops:
            return None
        return self.flops / self.seconds.p50 / self.peak_flops


def _proc_entry(path: str, key: str) -> str | None:
    """What a /proc file says of `key`; None where the system has no such file or line."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def cpu_name() -> str:
    """The CPU's name where the system tells it, else its architecture."""
    return _proc_entry("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {"processor": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()}


def peak_memory_bytes() -> int | None:
    """The most memory this process has had resident; None where the system does not tell."""
    kilobytes = _proc_entry("/proc/self/status", "VmHWM:")
    return None if kilobytes is None else int(kilobytes.split()[0]) * 1024


def record_to_json(record: Record) -> dict[str, Any]:
    return {**asdict(record), "share_of_peak": record.share_of_peak}


def check_figures_output(folder: Path) -> None:
    """Raise `ConfigError` where bench.json or bench.png in a folder are not those of an earlier measurement."""
    for name in ("bench.json", "bench.png"):
        check_output(folder / name, "a file of figures", ConfigError, _is_figures)


def _is_figures(path: Path, _: FileKind) -> bool:
    figures = path.with_suffix(".json")  # the picture is ours where its figures lie beside it
    return figures.is_file() and f'"{SCHEMA}"'.encode() in figures.read_bytes()


def write_figures(records: Sequence[Record], path: Path, **more: Any) -> None:
    """Write a file of figures, whole or not at all. `more`: further entries of the document."""
    document = {
        "schema": SCHEMA,
        "version": VERSION,
        "machine": machine(),
        **more,
        "records": [record_to_json(record) for record in records],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as part:
        part.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
