# SPDX-License-Identifier: Apache-2.0
"""Lists of numbers of options: --episodes, --tasks, --task."""

from __future__ import annotations

import pytest

from lightwam.number_lists import ranges_in


def test_numbers_and_ranges_keep_their_order() -> None:
    assert ranges_in("5, 0-2,7") == (range(5, 6), range(3), range(7, 8))


@pytest.mark.parametrize("listed", ["", "all", "3-1", "-1", "1,,2", "1-2-3", "1.5", "\u0663", "9999999999"])
def test_what_is_no_list(listed: str) -> None:
    assert ranges_in(listed) is None
