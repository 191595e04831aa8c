# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from helpers.golden import GoldenPolicy, golden_policy


@pytest.fixture(params=["golden_set1", "golden_set3"])
def golden(request: pytest.FixtureRequest) -> GoldenPolicy:
    return golden_policy(request.param)
