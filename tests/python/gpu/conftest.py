# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from helpers.standin import build_standin


@pytest.fixture(scope="session")
def standin_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in driver, compiled once a session."""
    return build_standin(tmp_path_factory.mktemp("standin"))
