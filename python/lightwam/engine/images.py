# SPDX-License-Identifier: Apache-2.0
"""Camera images -> canvas in float64, from the definition (docs/reference/light-wam.md, section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightwam.arithmetic import default_arithmetic
from lightwam.engine.dtypes import Array
from lightwam.errors import ObservationError


def resize_weights(size_in: int, size_out: int) -> NDArray[np.float64]:
    """Antialiased bilinear weights [out, in]: triangle of support max(1, in/out), half-pixel centres, rows sum to 1."""
    scale = size_in / size_out
    support = max(1.0, scale)
    centres = (np.arange(size_out)[:, None] + 0.5) * scale
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(size_in)[None] + 0.5 - centres) / support)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float64)


@default_arithmetic
def compose_canvas(images: Mapping[str, Array], policy: Mapping[str, Any]) -> NDArray[np.float64]:
    """{camera: uint8 RGB [h, w, 3]} -> canvas [H, W, 3] in -1..1 by the engine's camera list.

    Raises `ObservationError` on a missing camera, a wrong format or a wrong rank.
    """
    height, width = policy["canvas"]
    canvas = np.zeros((height, width, 3))
    for camera in policy["cameras"]:
        name = camera["name"]
        image = images.get(name)
        masked = isinstance(image, np.ma.MaskedArray)
        if (
            image is None
            or masked
            or image.dtype != np.uint8
            or image.ndim != 3
            or image.shape[2] != 3
            or 0 in image.shape
        ):
            found = "missing" if image is None else f"{'masked ' * masked}{image.dtype}{list(image.shape)}"
            raise ObservationError(f"image {name!r} is {found}: give uint8 RGB [h, w, 3]")
        pixels = image.astype(np.float64) / 255.0
        if camera["rotate_180"]:
            pixels = pixels[::-1, ::-1]
        top, left, rows, columns = camera["rect"]
        resized = np.einsum("ai,ijc->ajc", resize_weights(image.shape[0], rows), pixels, optimize=True)
        resized = np.einsum("bj,ajc->abc", resize_weights(image.shape[1], columns), resized, optimize=True)
        canvas[top : top + rows, left : left + columns] = (resized - 0.5) / 0.5
    return canvas
