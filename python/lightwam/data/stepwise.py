# SPDX-License-Identifier: Apache-2.0
"""A normaliser with other numbers for each step of a window ('stepwise' statistics).

Legend: H steps, D width of the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightwam.data.normalize import Normalizer, statistics_of_mode
from lightwam.errors import DataError


def stepwise_normalizer(
    document: Mapping[str, Any], field: str, mode: str, steps: int, width: int, clamp: float = 5.0
) -> Normalizer:
    """As `Normalizer.from_statistics`, out of `stepwise_min`, ... of [steps, width]; scale and offset are [H, D].

    Raises `DataError`: an entry is missing or of another shape; `ConfigError`: an unknown mode.
    """
    section = document.get(field)
    default = section.get("default") if isinstance(section, Mapping) else None
    flat: dict[str, Any] = {}
    for name in statistics_of_mode(mode):
        values = (default or {}).get(f"stepwise_{name}")
        try:
            array = np.asarray(values, np.float32)
        except (TypeError, ValueError):
            array = np.zeros(0, np.float32)
        if array.shape != (steps, width):
            found = "missing" if values is None else f"of the shape {np.shape(array)}"
            raise DataError(f"statistics of {field}: stepwise_{name} is {found}: measure it for [{steps}, {width}]")
        flat[f"global_{name}"] = array.ravel().tolist()
    made = Normalizer.from_statistics({field: {"default": flat}}, field, mode, steps * width, clamp)
    return Normalizer(made.scale.reshape(steps, width), made.offset.reshape(steps, width), clamp)
