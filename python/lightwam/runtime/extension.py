# SPDX-License-Identifier: Apache-2.0
"""Why the compiled extension is not there."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path

from lightwam.errors import InstallationError


def missing_extension(error: ImportError) -> InstallationError:
    """What the failed import of lightwam.runtime._engine means: not built, for another Python, or damaged."""
    folder = Path(__file__).parent
    if importlib.util.find_spec("lightwam.runtime._engine") is None:
        others = ", ".join(sorted(path.name for path in folder.glob("_engine*.so")))
        why = f"is not built for Python {platform.python_version()} in {folder}" + (
            f" (only {others})" if others else ""
        )
    else:
        why = f"cannot be loaded ({error})"
    return InstallationError(
        f"lightwam's compiled extension {why}: run pip install . in a checkout of lightwam with this Python, and leave "
        "its sources out of PYTHONPATH"
    )
