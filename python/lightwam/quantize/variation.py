# SPDX-License-Identifier: Apache-2.0
"""Do the observations differ? Black videos and a robot that stood still say nothing about an engine's errors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightwam.engine.dtypes import Array
from lightwam.engine.inputs import Observation
from lightwam.errors import DataError
from lightwam.quantize.calibration import Observations

LEAST_CHANGE = 8
"""Levels of 255 that some pixel must change by: what a codec makes of a still or black scene stays below."""


@dataclass(frozen=True)
class Variation:
    """observations: how many there are; distinct: how many differ; warnings: one line for each doubt."""

    observations: int
    distinct: int
    warnings: tuple[str, ...]


def measure_variation(observations: Observations) -> Variation:
    """Of calibration and held-out observations together; one instruction for all is fine.

    Raises `DataError` when several observations show one and the same picture (or latents).
    """
    every = (*observations.calibration, *observations.held_out)
    distinct = len({_digest(seen) for seen in every})
    warnings = []
    for name, views in _views(every).items():
        if len(views) > 1 and not _changes(views):
            raise DataError(
                f"all {len(views)} observations of {observations.source} have the same {name}: "
                "give recordings of the robot at work"
            )
        if views[0].dtype == np.uint8 and all(_is_plain(view) for view in views):
            warnings.append(f"every {name} has one colour: look at the recordings")
    if len(every) > 1 and not np.ptp(np.stack([seen.state for seen in every]), axis=0).any():
        warnings.append(f"the state is the same in all {len(every)} observations: look at the recordings")
    return Variation(len(every), distinct, tuple(warnings))


def _views(every: Sequence[Observation]) -> dict[str, list[Array]]:
    """What is seen, by camera."""
    views: dict[str, list[Array]] = {}
    for seen in every:
        if seen.latents is not None:
            views.setdefault("latents", []).append(seen.latents)
        for camera, image in (seen.images or {}).items():
            views.setdefault(f"image of camera {camera!r}", []).append(image)
    return views


def _changes(views: Sequence[Array]) -> bool:
    """Whether something changes by more than a codec's noise (latents: at all)."""
    low, high = views[0].copy(), views[0].copy()
    least = LEAST_CHANGE if low.dtype == np.uint8 else 0
    for view in views[1:]:
        if view.shape != low.shape:
            return True
        np.minimum(low, view, out=low)
        np.maximum(high, view, out=high)
        if (high - low).max() > least:
            return True
    return False


def _is_plain(image: Array) -> bool:
    """Whether a frame has one colour, but for a codec's noise."""
    return int(np.ptp(image, axis=(0, 1)).max()) <= LEAST_CHANGE


def _digest(seen: Observation) -> bytes:
    digest = hashlib.sha256(seen.instruction.encode())
    for name, array in (("state", seen.state), ("latents", seen.latents), *sorted((seen.images or {}).items())):
        if array is not None:
            digest.update(f"{name} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
