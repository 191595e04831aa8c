# SPDX-License-Identifier: Apache-2.0
"""Checkpoint -> graph -> engine file: fold the action pass once, write one file that runs without PyTorch.

Importing this package needs NumPy only; `export_engine` pulls in PyTorch when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightwam.export.exporter import ExportReport, export_engine
    from lightwam.export.options import ExportOptions

__all__ = ["ExportOptions", "ExportReport", "export_engine"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from lightwam.export import exporter

        return getattr(exporter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
