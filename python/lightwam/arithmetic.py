# SPDX-License-Identifier: Apache-2.0
"""NumPy's error state inside our functions: its defaults, whatever `numpy.seterr` the caller has chosen.

With `numpy.seterr(all="raise")` a number that underflows in a cast would end a call that is right.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def default_errstate() -> np.errstate:
    """NumPy's own defaults, as a context: warn of divisions by zero, overflow and invalid operations."""
    return np.errstate(divide="warn", over="warn", invalid="warn", under="ignore")


def default_arithmetic(function: Callable[P, R]) -> Callable[P, R]:
    """The function under NumPy's default error state. Not for generators, which would leave it to their caller."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with default_errstate():
            return function(*args, **kwargs)

    return run
