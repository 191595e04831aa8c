# SPDX-License-Identifier: Apache-2.0
"""Which stored results of benchmarks/report.py are used again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report import is_reusable


@pytest.mark.parametrize(
    ("threads", "rounds", "reusable"), [(2, 3, True), (2, 2, True), (2, 4, False), (1, 3, False), (1, 1, False)]
)
def test_results_of_other_settings_are_measured_again(
    threads: int, rounds: int, reusable: bool, tmp_path: Path
) -> None:
    results = {"a": {"rounds": [{}] * 3}, "b": {"rounds": [{}] * 5}}
    file = tmp_path / "nano-result-a+b.json"
    assert not is_reusable(file, threads, rounds)
    file.write_text(json.dumps({"threads": 2, "group": ["a", "b"], "results": results}))
    assert is_reusable(file, threads, rounds) is reusable
