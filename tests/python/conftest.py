# SPDX-License-Identifier: Apache-2.0
"""What all tests share: one thread a process, and folders that are built once for all processes of a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.built_once import BuiltOnce, built_once_in
from helpers.standin import build_standin

for _library in ("OMP", "OPENBLAS", "MKL"):  # before any of them is loaded: pytest-xdist runs a process on every core
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> BuiltOnce:
    """Folders that are built once for all workers of a run: `built_once(name, build)`."""
    root = tmp_path_factory.getbasetemp()
    return built_once_in((root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "built-once")


@pytest.fixture(scope="session")
def standin_library(built_once: BuiltOnce) -> Path:
    """The stand-in for the GPU's driver (helpers.standin)."""
    return built_once("standin", build_standin) / "standin.so"
