# SPDX-License-Identifier: Apache-2.0
"""`torch` and its functions for the op references, imported when the first of them runs.

So graphs are read, planned and counted with NumPy alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.nn import functional as F
else:

    class _Lazy:
        def __init__(self, module: str) -> None:
            self._module = module

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module(self._module), name)

    torch, F = _Lazy("torch"), _Lazy("torch.nn.functional")

__all__ = ["F", "torch"]
