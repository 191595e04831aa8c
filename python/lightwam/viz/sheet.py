# SPDX-License-Identifier: Apache-2.0
"""Contact sheets with matplotlib: lines of images of one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightwam.data.orientation import Images
from lightwam.viz.recordings import drawn

_GAP = 4  # pixels between two images
_WIDTH = 2.4  # inches of an image
_TEXT = 0.32  # inches of a line's title and labels


@dataclass(frozen=True)
class Line:
    """Images uint8 [H, W, 3] from left to right under a title, each over its label."""

    title: str
    images: Sequence[Images]
    labels: Sequence[str] = ()


def draw_sheet(
    path: Path, title: str, lines: Sequence[Line], below: Callable[[Any], None] | None = None, room: float = 2.2
) -> None:
    """Write a PNG with these lines. `below`: draws on axes under them, of `room` inches. Raises `DataError`."""
    height, width = lines[0].images[0].shape[:2]
    cell = _WIDTH * height / width + _TEXT
    heights = [cell] * len(lines) + ([room] if below is not None else [])

    def fill(figure: Any) -> None:
        figure.suptitle(title, fontsize=9)
        axes = figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights}).ravel()
        for one, line in zip(axes, lines, strict=False):
            _draw_line(one, line)
        if below is not None:
            below(axes[-1])

    drawn(path, fill, (max(_WIDTH * len(lines[0].images), 7.0), sum(heights) + 0.5))


def _draw_line(axes: Any, line: Line) -> None:
    height, width = line.images[0].shape[:2]
    white = np.full((height, _GAP, 3), 255, np.uint8)
    parts = [part for image in line.images for part in (image, white)][:-1]
    axes.imshow(np.concatenate(parts, axis=1))
    axes.set_title(line.title, fontsize=7, loc="left", pad=2)
    axes.set_yticks([])
    axes.set_xticks([place * (width + _GAP) + width / 2 for place in range(len(line.labels))], line.labels, fontsize=7)
    axes.tick_params(length=0, pad=1)
    for side in axes.spines.values():
        side.set_visible(False)
