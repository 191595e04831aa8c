# SPDX-License-Identifier: Apache-2.0
"""Files that travel inside the package: the bundled policy's engine."""

from __future__ import annotations

from pathlib import Path

from lightwam.errors import EngineError

BUNDLED_ENGINE = "nano-libero-object-0.lwam"


def bundled_engine() -> Path:
    """Path of the bundled policy's engine file. Errors: EngineError when the installation lacks it."""
    path = Path(__file__).parent / BUNDLED_ENGINE
    if not path.is_file():
        raise EngineError(f"{BUNDLED_ENGINE}: not in this installation; reinstall lightwam or name an engine file")
    return path
