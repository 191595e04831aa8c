# SPDX-License-Identifier: Apache-2.0
"""Options of the benchmarks: `pytest benchmarks --full-size` adds the 2.2-billion-parameter model (minutes, 16 GB)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from lightwam.bench.figures import SCHEMA, VERSION, Record, Seconds, machine, record_to_json


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full-size", action="store_true", help="also measure the full-size model (minutes, 16 GB of memory)"
    )
    parser.addoption(
        "--engine", default=None, help="engine file of the full-size model; made from random weights if absent"
    )
    parser.addoption(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="threads of the runtime and of PyTorch alike; as many as CPU cores if absent",
    )


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Files of --benchmark-json hold our records as well (lightwam.bench.figures)."""
    records = [
        Record(
            suite="chunk",
            name=str(measured.group),
            contender=measured.name,
            precision="bf16" if "bf16" in f"{measured.name} {measured.group}" else "f32",
            threads=measured.extra_info["threads"],
            seconds=Seconds.of(measured.stats.data),
            stages=measured.extra_info.get("stages_s"),
        )
        for measured in benchmarks
    ]
    figures = {"schema": SCHEMA, "version": VERSION, "machine": machine()}
    output_json.update(figures, records=[record_to_json(record) for record in records])
