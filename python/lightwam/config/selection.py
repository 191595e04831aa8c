# SPDX-License-Identifier: Apache-2.0
"""Which episodes of the data sets are used: the same options of every command that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightwam.errors import ConfigError
from lightwam.number_lists import ranges_in

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which episodes of the data sets are used. Raises `ConfigError` for lists of numbers that are none."""

    episodes: tuple[str, ...] = ()
    """Numbers of the episodes that are used, as the data set counts them: 0-99,150. With several data sets one such
    list (or 'all') for each, or one for all of them; nothing: all episodes."""
    tasks: tuple[str, ...] = ()
    """Instructions of the episodes that are used, as the data sets spell them; nothing: all."""
    max_episodes: int | None = None
    """Use only the first so many of these episodes of each data set."""

    def __post_init__(self) -> None:
        for listed in self.episodes:
            numbers_of(listed)
        if self.max_episodes is not None and self.max_episodes < 1:
            raise ConfigError(f"--max-episodes is {self.max_episodes}: use at least 1")

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return all(listed == ALL for listed in self.episodes) and not self.tasks and self.max_episodes is None

    def numbers(self, sets: int) -> Sequence[Sequence[range] | None]:
        """For each of so many data sets the numbers of its episodes; None: all. Raises `ConfigError`: other lists."""
        if len(self.episodes) not in (0, 1, sets):
            raise ConfigError(
                f"--episodes has {len(self.episodes)} lists for {sets} data sets: give one for each ('{ALL}' leaves "
                "none out), or one for all"
            )
        return [numbers_of(listed) for listed in self.episodes or (ALL,)] * (sets if len(self.episodes) < 2 else 1)


def numbers_of(listed: str) -> tuple[range, ...] | None:
    """The numbers in a list such as 0-99,150; None for 'all'. Raises `ConfigError`."""
    if listed == ALL:
        return None
    ranges = ranges_in(listed)
    if ranges is None:
        raise ConfigError(f"--episodes is {listed!r}: write numbers and ranges, such as 0-99,150, or '{ALL}'")
    return ranges
