# SPDX-License-Identifier: Apache-2.0
"""Photometric augmentation of canvases: brightness, contrast, saturation, hue, noise, small shifts.

Each camera's rectangle gets numbers of its own, the same for all frames of a clip; only the noise is new in each frame.
They follow from a key alone (seed, epoch and sample; of a cache: seed, frames, row and variant), so they do not depend
on workers, on the order of samples, or on what was drawn before.

Brightness multiplies; contrast blends with the clip's mean grey, saturation with each pixel's grey; hue turns HSV's
circle. The order is this one, then the shift, then the noise. Values stay in 0..1.

Legend: F frames, H x W canvas, h x w rectangle of a camera.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightwam.config import CameraLayout
from lightwam.config.augmentation import Augmentation as Augmentation

Rectangle = tuple[int, int, int, int]
"""top, left, height, width."""
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Draw:
    """The numbers of one camera in one clip."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    down: int
    right: int


def rectangles(layout: CameraLayout, canvas: tuple[int, int]) -> list[Rectangle]:
    """Where the cameras lie; the whole canvas where it is not the layout's (it was covered and cut)."""
    if canvas != (layout.height, layout.width):
        return [(0, 0, *canvas)]
    return [(camera.top, camera.left, camera.height, camera.width) for camera in layout.cameras]


def generator(*key: object) -> torch.Generator:
    """A CPU generator that follows from the key alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def augment(clip_F3HW: Tensor, places: Sequence[Rectangle], how: Augmentation, *key: object) -> Tensor:
    """The clip, float in 0..1, with each rectangle changed by numbers that follow from `key`."""
    if how.changes_nothing:
        return clip_F3HW
    source, made = generator(*key), clip_F3HW.clone()
    for top, left, height, width in places:
        part = (..., slice(top, top + height), slice(left, left + width))
        made[part] = _changed(clip_F3HW[part], _draw(how, height, width, source))
    if how.noise:
        made += how.noise * torch.randn(made.shape, generator=source, dtype=made.dtype)
    return made.clamp_(0, 1)


def _draw(how: Augmentation, height: int, width: int, source: torch.Generator) -> Draw:
    b, c, s, h, y, x = (2 * torch.rand(6, generator=source, dtype=torch.float64) - 1).tolist()
    return Draw(
        1 + how.brightness * b,
        1 + how.contrast * c,
        1 + how.saturation * s,
        how.hue * h,
        round(how.shift * height * y),
        round(how.shift * width * x),
    )


def _changed(pixels_F3hw: Tensor, draw: Draw) -> Tensor:
    x = (pixels_F3hw * draw.brightness).clamp(0, 1)
    x = _blend(x, grey(x).mean(), draw.contrast)
    x = _blend(x, grey(x), draw.saturation)
    return shifted(turn_hue(x, draw.hue), draw.down, draw.right)


def _blend(x: Tensor, other: Tensor, factor: float) -> Tensor:
    return (factor * x + (1 - factor) * other).clamp(0, 1)


def grey(pixels_F3hw: Tensor) -> Tensor:
    """[F, 1, h, w], by ITU-R 601."""
    weights = torch.tensor(_GREY, dtype=pixels_F3hw.dtype).view(3, 1, 1)
    return (pixels_F3hw * weights).sum(-3, keepdim=True)


def turn_hue(pixels_F3hw: Tensor, turns: float) -> Tensor:
    """The pixels with HSV's hue so many turns further; saturation and value stay."""
    if turns == 0:
        return pixels_F3hw
    value, _ = pixels_F3hw.max(-3)
    low, _ = pixels_F3hw.min(-3)
    chroma = value - low
    red, green, blue = pixels_F3hw.unbind(-3)
    safe = torch.where(chroma == 0, 1, chroma)
    sixths = torch.where(
        value == red, (green - blue) / safe % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )  # fmt: skip
    sixths = sixths + 6 * turns
    channels = []
    for offset in (5, 3, 1):  # red, green, blue: how far each lies below the largest
        k = (offset + sixths) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, -3)


def shifted(pixels_F3hw: Tensor, down: int, right: int) -> Tensor:
    """Moved by whole pixels, the edge repeated."""
    height, width = pixels_F3hw.shape[-2:]
    rows = (torch.arange(height) - down).clamp(0, height - 1)
    columns = (torch.arange(width) - right).clamp(0, width - 1)
    return pixels_F3hw[..., rows, :][..., columns]


def variant_of(seed: int, sample: int, epoch: int, variants: int) -> int:
    """Which of a sample's cached variants an epoch uses: in `variants` epochs each once, in an order of its own."""
    start = hashlib.sha256(repr((seed, sample)).encode()).digest()
    return (int.from_bytes(start[:8], "little") + epoch) % variants
