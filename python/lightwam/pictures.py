# SPDX-License-Identifier: Apache-2.0
"""Diagrams with matplotlib, whatever its settings: never its global state, and no reason to lose figures."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightwam.files import replacing_file

log = logging.getLogger(__name__)


def can_draw() -> bool:
    """True where matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(path: Path, fill: Callable[[Any], None], *, size: tuple[float, float], dpi: int) -> bool:
    """Let `fill` draw on a matplotlib figure of `size` inches, and write it; whole or not at all. False: it failed.

    A picture shows what a file of numbers holds too, so its failure is a warning on the log, not an error.
    """
    try:
        with _own_matplotlib() as figure_class:
            figure = figure_class(figsize=size, layout="constrained")
            fill(figure)
            with replacing_file(path) as part:
                figure.savefig(part, dpi=dpi)
    except Exception as error:  # matplotlib, its fonts, its settings, the disk
        reason = str(error).strip().splitlines() or [""]
        log.warning("no picture %s: %s: %s", path, type(error).__name__, reason[0])
        return False
    return True


@contextlib.contextmanager
def _own_matplotlib() -> Iterator[Any]:
    """Its class Figure, which draws without a window. MPLBACKEND is for windows; a wrong one fails its import."""
    with warnings.catch_warnings(), _quiet_log("matplotlib"):
        warnings.simplefilter("ignore")
        if "matplotlib" not in sys.modules:
            chosen = os.environ.pop("MPLBACKEND", None)
            try:
                import matplotlib
            finally:
                if chosen is not None:
                    os.environ["MPLBACKEND"] = chosen
            if chosen:
                with contextlib.suppress(ValueError):
                    matplotlib.rcParams["backend"] = chosen
        from matplotlib.figure import Figure

        yield Figure


@contextlib.contextmanager
def _quiet_log(name: str) -> Iterator[None]:
    """Hide what a library logs of its settings and fonts."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
