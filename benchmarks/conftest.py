# SPDX-License-Identifier: Apache-2.0
"""Options of the benchmarks: `pytest benchmarks --full-size` adds the 2.2-billion-parameter model (minutes, 16 GB)."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full-size", action="store_true", help="also measure the full-size model (minutes, 16 GB of memory)"
    )
    parser.addoption(
        "--engine", default=None, help="engine file of the full-size model; made from random weights if absent"
    )
