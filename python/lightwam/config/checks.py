# SPDX-License-Identifier: Apache-2.0
"""What the constructors of configurations share: checks that raise a one-line `ConfigError`."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from lightwam.errors import ConfigError
from lightwam.files import short

#: Of any whole number in a configuration.
LARGEST_INTEGER = (1 << 31) - 1
#: Of those that count things which are then made one by one.
LARGEST_SIZE = 1 << 20


def require(condition: bool, what: str, value: object, remedy: str) -> None:
    """Raise a one-line `ConfigError` that names the field, its value and the remedy."""
    if not condition:
        raise ConfigError(f"{what} is {short(value)}: {remedy}")


def as_float(value: float, what: str) -> float:
    """A number as float64. Raises `ConfigError` on one that is too large, NaN or infinite."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{what} is {short(value)}: give a finite number")
    return number


def require_positive(owner: str, **values: float) -> None:
    """`require` for every value, named `owner`.NAME."""
    for name, value in values.items():
        require(value > 0, f"{owner}.{name}", value, "it must be positive")


def require_unique(what: str, names: Sequence[str]) -> None:
    """`require` that there is at least one name, and each once."""
    require(0 < len(names) == len(set(names)), what, list(names), "give at least one, each name once")


def numbers(config: Any) -> dict[str, float]:
    """The plain number fields of a dataclass."""
    values = {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if type(value) in (int, float)}


def require_layers(owner: str, layers: tuple[int, ...]) -> None:
    """`require` that block numbers rise from 0 or more."""
    increasing = all(a < b for a, b in itertools.pairwise(layers))
    require(len(layers) > 0 and increasing and layers[0] >= 0, f"{owner}.layers", layers, "give rising block numbers")
