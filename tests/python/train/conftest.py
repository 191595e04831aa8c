# SPDX-License-Identifier: Apache-2.0
"""What several files of these tests start from, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.built_once import BuiltOnce
from helpers.training import fill, policy_args
from lightwam.cli import train


@pytest.fixture(scope="session")
def folders(built_once: BuiltOnce) -> Path:
    """A data set, and a VAE trained for three steps."""
    return built_once("training", fill)


@pytest.fixture(scope="session")
def whole(built_once: BuiltOnce, folders: Path) -> Path:
    """A run of four steps, without a stop or rollouts."""
    return built_once("policy_run", lambda root: train.main(policy_args(folders, root / "run"))) / "run"
