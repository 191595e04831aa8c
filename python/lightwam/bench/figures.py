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

from lightwam.errors import DataError
from lightwam.files import replacing_file

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


def cpu_name() -> str:
    """The CPU's name where the system tells it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {"processor": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()}


def peak_memory_bytes() -> int | None:
    """The most memory this process has had resident; None where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def record_to_json(record: Record) -> dict[str, Any]:
    return {**asdict(record), "share_of_peak": record.share_of_peak}


def record_from_json(entry: Mapping[str, Any]) -> Record:
    """Inverse of `record_to_json`. Raises `DataError` on a field that is missing or unknown."""
    fields = {key: value for key, value in entry.items() if key != "share_of_peak"}
    try:
        return Record(**{**fields, "seconds": Seconds(**fields["seconds"])})
    except (KeyError, TypeError) as error:
        raise DataError(f"a record of figures does not fit ({error}): measure again") from None


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


def read_figures(path: Path) -> list[Record]:
    """The records of a file of figures. Raises `DataError` on another schema or version."""
    try:
        document = json.loads(path.read_text())
        found = (document["schema"], document["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a file of figures ({error}): measure again") from None
    if found != (SCHEMA, VERSION):
        raise DataError(f"{path}: schema and version are {found}, not {(SCHEMA, VERSION)}: measure again")
    return [record_from_json(entry) for entry in document["records"]]
