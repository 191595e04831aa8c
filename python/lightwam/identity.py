# SPDX-License-Identifier: Apache-2.0
"""What a result depends on, as flat names and values, to be compared before work goes on in a folder.

A difference is refused by name, with both values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lightwam.files import short

Value = str | int | float | bool | None
Fingerprint = dict[str, Value]
"""Flat: `seed`, `data.0`, `recipe.schedule.batch`, `config.video_dit.hidden_dim`, ..."""

_SHOWN = 4  # differences in one message


def differences(old: Mapping[str, Value], new: Mapping[str, Value]) -> dict[str, tuple[Value, Value]]:
    """Name -> (old value, new value) where they differ; a name that only one has counts as None in the other."""
    names = [*old, *(name for name in new if name not in old)]
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def told(found: Mapping[str, tuple[Value, Value]]) -> str:
    """Differences as text: the first of them, and how many more there are."""
    texts = [f"{name} is {short(new)} instead of {short(old)}" for name, (old, new) in found.items()]
    more = f", and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more


def covers(names: Iterable[str], name: str) -> bool:
    """Whether a name is one of these, or begins with one of them and a dot."""
    return any(name == part or name.startswith(f"{part}.") for part in names)


def grouped(names: Iterable[str]) -> list[str]:
    """The names themselves, or where they are many their first words."""
    listed = list(names)
    return listed if len(listed) <= _SHOWN else list(dict.fromkeys(name.split(".")[0] for name in listed))
