# SPDX-License-Identifier: Apache-2.0
"""What these tests start from, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.built_once import BuiltOnce
from helpers.viz_set import fill


@pytest.fixture(scope="session")
def seen(built_once: BuiltOnce) -> Path:
    """A folder with recordings, data/, and a policy, checkpoint/."""
    return built_once("viz", fill)
