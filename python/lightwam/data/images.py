# SPDX-License-Identifier: Apache-2.0
"""A data set's images to a policy's canvas: turn upright, resize with antialiasing, join, scale.

Source: docs/reference/light-wam.md, section 6.

Legend: N images, H x W pixels. All arrays are NumPy, channels last, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from lightwam.arithmetic import default_arithmetic
from lightwam.config import FLIPS, Camera, CameraLayout
from lightwam.errors import DataError

Images = npt.NDArray[np.uint8]


def resize_images(images_NHWC: Images, height: int, width: int) -> torch.Tensor:
    """Antialiased bilinear resize of uint8 [N, h, w, 3]; float32 [N, 3, height, width] in [0, 1], not rounded."""
    pixels = torch.from_numpy(np.ascontiguousarray(images_NHWC)).permute(0, 3, 1, 2).float() / 255.0
    if pixels.shape[-2:] == (height, width):
        return pixels
    return torch.nn.functional.interpolate(
        pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )


def _camera_pixels(images: Images, camera: Camera) -> torch.Tensor:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise DataError(
            f"images of camera {camera.name!r} are {images.dtype} {images.shape}: give uint8 [n, height, width, 3]"
        )
    return resize_images(_flipped(images, *FLIPS[camera.in_data]), camera.height, camera.width)


def as_on_robot(images_NHWC: Images, camera: Camera) -> Images:
    """A data set's images, turned to lie as the live robot's do: what an engine takes."""
    (up_down, left_right), (live_up_down, live_left_right) = FLIPS[camera.in_data], FLIPS[camera.on_robot]
    return np.ascontiguousarray(_flipped(images_NHWC, up_down != live_up_down, left_right != live_left_right))


def _flipped(images_NHWC: Images, up_down: bool, left_right: bool) -> Images:
    flipped = images_NHWC[:, ::-1] if up_down else images_NHWC
    return flipped[:, :, ::-1] if left_right else flipped


@default_arithmetic
def join_cameras(images: Mapping[str, Images], layout: CameraLayout) -> torch.Tensor:
    """Raw camera images {name: uint8 RGB [N, h, w, 3]} -> canvas float32 [N, 3, H, W] in [0, 1].

    Raises `DataError` when a camera is missing, extra, of another type or of another count.
    """
    wanted = [camera.name for camera in layout.cameras]
    if sorted(images) != sorted(wanted):
        raise DataError(f"cameras are {sorted(images)}: give exactly {sorted(wanted)}")
    counts = {name: len(array) for name, array in images.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"image counts differ between cameras ({counts}): give the same number of each")
    canvas_N3HW = torch.empty(next(iter(counts.values())), 3, layout.height, layout.width)
    for camera in layout.cameras:
        rows = slice(camera.top, camera.top + camera.height)
        columns = slice(camera.left, camera.left + camera.width)
        canvas_N3HW[:, :, rows, columns] = _camera_pixels(images[camera.name], camera)
    return canvas_N3HW


def scale_pixels(canvas: torch.Tensor) -> torch.Tensor:
    """[0, 1] -> [-1, 1], as the VAE expects."""
    return (canvas - 0.5) / 0.5


def canvas_uint8(images: Mapping[str, Images], layout: CameraLayout) -> Images:
    """As `join_cameras`, rounded to uint8 [N, H, W, 3]: half a grey level from the exact canvas at most."""
    canvas = join_cameras(images, layout)
    rounded = (canvas * 255.0).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(rounded.numpy())
