# SPDX-License-Identifier: Apache-2.0
"""A data set's images to a policy's canvas: turn upright, resize with antialiasing, join, scale.

Source: docs/reference/light-wam.md, section 6.

Legend: N images, H x W pixels. All arrays are NumPy, channels last, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from lightwam.arithmetic import default_arithmetic
from lightwam.config import FLIPS, Camera, CameraLayout
from lightwam.data.orientation import Images, flipped
from lightwam.errors import DataError


@dataclass(frozen=True)
class CanvasRule:
    """How camera images become a canvas. The default resizes each once, to its rectangle."""

    resize_first: tuple[int, int] | None = None
    """(height, width) that every camera is resized to before its rectangle; the published three-camera recipes have
    (240, 320), which blurs images of another size a little."""
    cover: tuple[int, int] | None = None
    """(height, width) of the canvas in the end, where the cameras' rectangles make another: it is enlarged or reduced
    (bicubic) until it covers this size, and its centre is cut out."""


RESIZE_ONCE = CanvasRule()


def resize_images(images_NHWC: Images, height: int, width: int) -> torch.Tensor:
    """Antialiased bilinear resize of uint8 [N, h, w, 3]; float32 [N, 3, height, width] in [0, 1], not rounded."""
    pixels = torch.from_numpy(np.ascontiguousarray(images_NHWC)).permute(0, 3, 1, 2).float() / 255.0
    return resize_pixels(pixels, height, width)


def resize_pixels(pixels_N3hw: torch.Tensor, height: int, width: int, mode: str = "bilinear") -> torch.Tensor:
    """Antialiased resize of float [N, 3, h, w] to [N, 3, height, width]; `mode` is 'bilinear' or 'bicubic'."""
    if pixels_N3hw.shape[-2:] == (height, width):
        return pixels_N3hw
    return torch.nn.functional.interpolate(
        pixels_N3hw, size=(height, width), mode=mode, align_corners=False, antialias=True
    )


def cover(canvas_N3HW: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The canvas resized (bicubic, clamped to [0, 1]) until it covers [height, width], its centre cut out."""
    old_height, old_width = canvas_N3HW.shape[-2:]
    if (old_height, old_width) == (height, width):
        return canvas_N3HW
    scale = max(height / old_height, width / old_width)
    resized = resize_pixels(canvas_N3HW, round(old_height * scale), round(old_width * scale), "bicubic")
    top, left = (resized.shape[-2] - height) // 2, (resized.shape[-1] - width) // 2
    return resized[..., top : top + height, left : left + width]


def _camera_pixels(images: Images, camera: Camera, rule: CanvasRule) -> torch.Tensor:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise DataError(
            f"images of camera {camera.name!r} are {images.dtype} {images.shape}: give uint8 [n, height, width, 3]"
        )
    upright = flipped(images, *FLIPS[camera.in_data])
    if rule.resize_first is None:
        return resize_images(upright, camera.height, camera.width)
    return resize_pixels(resize_images(upright, *rule.resize_first), camera.height, camera.width)


@default_arithmetic
def join_cameras(
    images: Mapping[str, Images],
    layout: CameraLayout,
    rule: CanvasRule = RESIZE_ONCE,
) -> torch.Tensor:
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
        canvas_N3HW[:, :, rows, columns] = _camera_pixels(images[camera.name], camera, rule)
    return canvas_N3HW if rule.cover is None else cover(canvas_N3HW, *rule.cover)


def scale_pixels(canvas: torch.Tensor) -> torch.Tensor:
    """[0, 1] -> [-1, 1], as the VAE expects."""
    return (canvas - 0.5) / 0.5


def canvas_uint8(
    images: Mapping[str, Images],
    layout: CameraLayout,
    rule: CanvasRule = RESIZE_ONCE,
) -> Images:
    """As `join_cameras`, rounded to uint8 [N, H, W, 3]: half a grey level from the exact canvas at most."""
    canvas = join_cameras(images, layout, rule)
    rounded = (canvas * 255.0).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(rounded.numpy())
