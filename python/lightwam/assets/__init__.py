# SPDX-License-Identifier: Apache-2.0
"""Files that travel inside the package: the bundled policy's engine, and what it achieved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightwam.errors import EngineError
from lightwam.files import load_json

BUNDLED_ENGINE = "nano-libero-object-0.lwam"
FIGURES = "nano-figures.json"


def bundled_engine() -> Path:
    """Path of the bundled policy's engine file. Raises EngineError where the installation lacks it."""
    path = Path(__file__).parent / BUNDLED_ENGINE
    if not path.is_file():
        raise EngineError(
            f"{BUNDLED_ENGINE}: not in this installation; run pip install . in a checkout again, or name a file"
        )
    return path


def bundled_figures() -> list[dict[str, Any]]:
    """Reports of the bundled policy's full 20 trials and of the blind baseline, from when the policy was made."""
    path = Path(__file__).parent / FIGURES
    try:
        reports: list[dict[str, Any]] = load_json(path) if path.is_file() else []
    except ValueError as error:
        raise EngineError(f"{FIGURES}: damaged in this installation ({error}); reinstall lightwam") from error
    return reports
