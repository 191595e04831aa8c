# SPDX-License-Identifier: Apache-2.0
"""The compiled extension, or one line that says why there is none."""

from __future__ import annotations

import importlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightwam.errors import InstallationError


def _load() -> Any:
    """The module lightwam.runtime._engine. Raises InstallationError where it is not built, or for another Python."""
    try:
        return importlib.import_module("lightwam.runtime._engine")
    except ImportError as error:
        folder = Path(__file__).parent
        built = sorted(path.name for path in folder.glob("_engine*.so"))
        if isinstance(error, ModuleNotFoundError):
            why = f"is not built for Python {platform.python_version()} in {folder}"
            why += f" (only {', '.join(built)})" if built else ""
        else:
            why = f"cannot be loaded ({error})"
        raise InstallationError(
            f"lightwam's compiled extension {why}: run pip install . in a checkout of lightwam with this Python, and "
            "leave its sources out of PYTHONPATH"
        ) from None


if TYPE_CHECKING:
    from lightwam.runtime import _engine as engine
else:
    engine = _load()
