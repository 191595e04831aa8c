# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import pytest
from standin import build_standin

sys.path.append(str(Path(__file__).parents[1] / "runtime"))  # engine_files, gpu_plans


@pytest.fixture(scope="session")
def standin_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in driver, compiled once a session."""
    return build_standin(tmp_path_factory.mktemp("standin"))
