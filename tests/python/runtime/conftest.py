# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from helpers.engine_files import TASK, small_engine, write_engine
from lightwam.runtime import Policy


@pytest.fixture
def engine_path(tmp_path: Path) -> Path:
    """A small engine that starts at images and has a text encoder."""
    return write_engine(tmp_path / "small.lwam", small_engine())


@pytest.fixture
def policy(engine_path: Path) -> Policy:
    """The small engine on one thread, with its known instruction set."""
    result = Policy(engine_path, threads=1)
    result.set_instruction(TASK)
    return result
