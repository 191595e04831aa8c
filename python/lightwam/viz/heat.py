# SPDX-License-Identifier: Apache-2.0
"""Heat maps on a canvas: weights of the token grid as pixels, colours, panels with a line of text. NumPy and Pillow.

Legend: r c token grid, H W canvas. Weights of a map sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lightwam.config import Camera, CameraLayout
from lightwam.data.orientation import Images

Floats = npt.NDArray[np.floating[Any]]
TEXT_HEIGHT = 18
"""Pixels of a panel's line of text."""
_COLOURS = np.array([(40, 20, 90), (150, 30, 110), (230, 70, 60), (252, 165, 40), (252, 250, 160)], np.float64)
_LEAST, _MOST = 0.15, 0.75  # opacity of no attention and of the most


def on_canvas(weights_rc: Floats, layout: CameraLayout) -> Floats:
    """Weights as multiples of an even share, for each pixel [H, W]: 1 where attention is spread evenly.

    Linear between the centres of tokens, within each camera alone: nothing leaks from one image into another.
    """
    relative = weights_rc * weights_rc.size
    cell = layout.height / weights_rc.shape[0], layout.width / weights_rc.shape[1]
    pixels = np.empty((layout.height, layout.width))
    for camera in layout.cameras:
        down = _between(camera.top, camera.height, cell[0], weights_rc.shape[0])
        across = _between(camera.left, camera.width, cell[1], weights_rc.shape[1])
        pixels[_rectangle(camera)] = down @ relative @ across.T
    return pixels


def camera_shares(weights_rc: Floats, layout: CameraLayout) -> dict[str, float]:
    """How much of the attention is on each camera; a token over two cameras counts by its area in each."""
    rows, columns = weights_rc.shape
    cell = layout.height // rows, layout.width // columns
    density = np.kron(weights_rc, np.ones(cell)) / (cell[0] * cell[1])
    return {camera.name: float(density[_rectangle(camera)].sum()) for camera in layout.cameras}


def spread(weights_rc: Floats) -> float:
    """Tokens that the attention is spread over: the exponential of its entropy, 1 to r c."""
    held = weights_rc[weights_rc > 0]
    return float(np.exp(-(held * np.log(held)).sum()))


def overlay(canvas_HW3: Images, relative_HW: Floats, top: float) -> Images:
    """The canvas in grey under the heat; `top` and all above it have the last colour."""
    level = np.clip(relative_HW / max(top, 1e-12), 0.0, 1.0)
    steps = np.linspace(0, 1, len(_COLOURS))
    heat = np.stack([np.interp(level, steps, _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    grey = (canvas_HW3 @ np.array([0.299, 0.587, 0.114]))[..., None]
    opacity = (_LEAST + (_MOST - _LEAST) * level)[..., None]
    return np.asarray(((1 - opacity) * grey + opacity * heat).round().clip(0, 255), np.uint8)


def panels(images: Sequence[tuple[str, Images]], columns: int, zoom: int) -> Images:
    """Images of one size, each under its line of text, `columns` in a row, each pixel `zoom` times as wide and high.

    uint8 [h, w, 3]; h and w are even, as videos must be.
    """
    made = [_panel(image, text, zoom) for text, image in images]
    empty = np.zeros_like(made[0])
    made += [empty] * (-len(made) % columns)
    rows = [np.concatenate(made[at : at + columns], axis=1) for at in range(0, len(made), columns)]
    whole = np.concatenate(rows)
    return np.pad(whole, ((0, whole.shape[0] % 2), (0, whole.shape[1] % 2), (0, 0)))


def columns_for(count: int, size: tuple[int, int]) -> int:
    """In how many columns so many panels of (height, width) lie best: about four to three, with few places empty."""
    height, width = size

    def fault(columns: int) -> float:
        rows = -(-count // columns)
        shape = columns * width / (rows * (height + TEXT_HEIGHT))
        return float(abs(np.log(shape / (4 / 3)))) + 0.5 * (rows * columns - count)

    return min(range(1, count + 1), key=fault)


def zoom_for(height: int, least: int = 224) -> int:
    """How many times small images are enlarged for people."""
    return max(1, -(-least // height))


def _panel(image: Images, text: str, zoom: int) -> Images:
    from PIL import Image, ImageDraw

    large = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
    strip = Image.new("RGB", (large.shape[1], TEXT_HEIGHT))
    ImageDraw.Draw(strip).text((4, 2), text, fill=(235, 235, 235), font=_font())
    return np.concatenate([np.asarray(strip, np.uint8), large])


@cache
def _font() -> Any:
    """The font that comes with matplotlib."""
    from pathlib import Path

    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 12)


def _rectangle(camera: Camera) -> tuple[slice, slice]:
    return slice(camera.top, camera.top + camera.height), slice(camera.left, camera.left + camera.width)


def _between(start: int, length: int, cell: float, count: int) -> Floats:
    """For each of `length` pixels from `start` on the shares [length, count] of the tokens whose centres are beside it;
    at the ends of the span the last token has all."""
    places = (np.arange(start, start + length) + 0.5) / cell - 0.5
    inside = np.clip(places, start // cell, (start + length - 1) // cell)
    shares: Floats = np.maximum(0.0, 1.0 - np.abs(inside[:, None] - np.arange(count)))
    return shares


def evenly(count: int, most: int) -> Sequence[int]:
    """At most `most` of `count` places, spread from the first to the last."""
    chosen: list[int] = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)).tolist()
    return chosen
