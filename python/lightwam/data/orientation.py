# SPDX-License-Identifier: Apache-2.0
"""How a camera's images lie: in the data, upright, on the live robot. NumPy alone.

Legend: N images, H x W pixels, channels last.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightwam.config import FLIPS, Camera

Images = npt.NDArray[np.uint8]


def as_on_robot(images_NHWC: Images, camera: Camera) -> Images:
    """A data set's images, turned to lie as the live robot's do: what an engine takes."""
    (up_down, left_right), (live_up_down, live_left_right) = FLIPS[camera.in_data], FLIPS[camera.on_robot]
    return np.ascontiguousarray(flipped(images_NHWC, up_down != live_up_down, left_right != live_left_right))


def flipped(images_NHWC: Images, up_down: bool, left_right: bool) -> Images:
    """The images mirrored along either axis; a view."""
    turned = images_NHWC[:, ::-1] if up_down else images_NHWC
    return turned[:, :, ::-1] if left_right else turned
