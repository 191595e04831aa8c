# SPDX-License-Identifier: Apache-2.0
"""Calibration data that shows nothing: refused, or doubted in one line; and how many observations differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lightwam.engine.inputs import Observation
from lightwam.errors import DataError
from lightwam.quantize.calibration import Observations
from lightwam.quantize.quantize_engine import quantize_engine
from lightwam.quantize.variation import measure_variation

RNG = np.random.default_rng(7)


def seen(images: Sequence[np.ndarray], states: Sequence[np.ndarray] | None = None) -> Observations:
    """One observation for each image; the last of them is held out."""
    chosen = [RNG.normal(size=3) for _ in images] if states is None else states
    made = tuple(
        Observation("go", np.asarray(state, np.float32), {"front": np.asarray(image, np.uint8)})
        for image, state in zip(images, chosen, strict=True)
    )
    return Observations(made[:-1], made[-1:], "recordings")


def noise() -> np.ndarray:
    return RNG.integers(0, 256, (8, 6, 3))


BLACK = np.zeros((8, 6, 3))
STILL = noise()


@pytest.mark.parametrize(
    "images",
    [
        [BLACK] * 4,
        [STILL] * 4,
        [BLACK, BLACK],
        [np.full((8, 6, 3), 16) + RNG.integers(0, 4, (8, 6, 3)) for _ in range(4)],  # black, and a codec
    ],
)
def test_pictures_that_never_change_are_refused(images: list[np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"all \d observations of recordings have the same image of camera 'front'"
    ) as caught:
        measure_variation(seen(images))
    assert "give recordings of the robot at work" in str(caught.value)
    with pytest.raises(DataError, match="have the same image"):
        quantize_engine(tmp_path / "no.lwam", tmp_path / "out.lwam", seen(images))
    assert not list(tmp_path.iterdir())


def test_latents_that_never_change_are_refused() -> None:
    latents = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    still = [Observation("go", RNG.normal(size=3).astype(np.float32), latents=latents) for _ in range(3)]
    with pytest.raises(DataError, match="all 3 observations of noise have the same latents"):
        measure_variation(Observations(tuple(still[:2]), tuple(still[2:]), "noise"))


def test_a_camera_of_one_colour_and_a_still_state_are_doubted() -> None:
    plain = [np.full((8, 6, 3), 20 * i) for i in range(4)]
    found = measure_variation(seen(plain))
    assert found.warnings == ("every image of camera 'front' has one colour: look at the recordings",)
    found = measure_variation(seen([noise() for _ in range(4)], [np.ones(3)] * 4))
    assert found.warnings == ("the state is the same in all 4 observations: look at the recordings",)


def test_good_data_is_counted() -> None:
    found = measure_variation(seen([noise() for _ in range(5)]))
    assert (found.observations, found.distinct, found.warnings) == (5, 5, ())
    first, second = noise(), noise()
    states = [np.zeros(3), np.ones(3), np.zeros(3), np.zeros(3)]
    found = measure_variation(seen([first, second, first, second], states))
    assert (found.observations, found.distinct, found.warnings) == (4, 3, ())


def test_frames_of_other_sizes_differ() -> None:
    assert measure_variation(seen([noise(), RNG.integers(0, 256, (4, 4, 3))])).distinct == 2
