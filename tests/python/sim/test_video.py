# SPDX-License-Identifier: Apache-2.0
"""Videos and pictures of roll-outs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lightwam.errors import DataError
from lightwam.sim.video import STRIP_HEIGHT, compose_frame, contact_sheet, mark_outcome, open_video, write_png

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 96, 3), dtype=np.uint8)


def decoded(path: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_picture_stands_over_the_chunk_strip() -> None:
    frame = compose_frame(PICTURE, 1, 3)
    assert frame.shape == (32 + STRIP_HEIGHT, 96, 3)
    np.testing.assert_array_equal(frame[:32], PICTURE)
    lit, idle = frame[36, 6], frame[36, 21]
    assert lit.tolist() != idle.tolist() and idle.any()


def test_a_video_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    with open_video(tmp_path / "a.mp4", 20.0) as append:
        for _ in range(5):
            append(compose_frame(PICTURE))
    assert len(decoded(tmp_path / "a.mp4")) == 5
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == 10  # every second control step
    with pytest.raises(RuntimeError), open_video(tmp_path / "b.mp4", 20.0) as append:
        append(compose_frame(PICTURE))
        raise RuntimeError
    with pytest.raises(DataError, match="no frame"), open_video(tmp_path / "c.mp4", 20.0):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_pictures_keep_their_pixels(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    write_png(tmp_path / "x.png", image)
    np.testing.assert_array_equal(decoded(tmp_path / "x.png")[0], image)
    frames = [np.full((8, 10, 3), value, np.uint8) for value in range(9)]
    contact_sheet([frames, frames], 3, tmp_path / "sheet.png")
    sheet = decoded(tmp_path / "sheet.png")[0]
    assert sheet.shape == (8, 15, 3)
    assert [int(sheet[0, column, 0]) for column in (0, 5, 10)] == [0, 4, 8]


def test_the_outcome_is_a_border() -> None:
    frame = np.zeros((40, 40, 3), np.uint8)
    good, bad = mark_outcome(frame, True), mark_outcome(frame, False)
    assert good[0, 0, 1] > good[0, 0, 0] and bad[0, 0, 0] > bad[0, 0, 1]
    assert not good[20, 20].any() and not frame.any()
