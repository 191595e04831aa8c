# SPDX-License-Identifier: Apache-2.0
"""Canvases equal the published ones; bad images give errors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lightwam.config import FLIPS, Camera, CameraLayout, LightWAMConfig
from lightwam.config.robot import Orientation
from lightwam.data.images import canvas_uint8, join_cameras, resize_images, scale_pixels
from lightwam.data.orientation import as_on_robot
from lightwam.errors import DataError

GOLDEN = load_file(Path(__file__).parents[2] / "data/golden/golden_image.safetensors")


def test_libero_canvas_matches() -> None:
    # The golden inputs are already turned upright: turn them back, as the simulator delivers them.
    images = {name: GOLDEN[f"libero.{name}_rot180"].numpy()[None, ::-1, ::-1] for name in ("agentview", "wrist")}
    canvas = scale_pixels(join_cameras(images, LightWAMConfig.libero().cameras))
    assert canvas.shape == (1, 3, 224, 448)
    for row in (0, 111):
        assert (canvas[0, :, row] - GOLDEN[f"libero.out_row{row}"]).abs().max() < 1e-5
    assert (canvas[:, :, ::4, ::4] - GOLDEN["libero.out"]).abs().max() < 1e-5


def test_robotwin_canvas_matches() -> None:
    images = {name: GOLDEN[f"robotwin.{name}"].numpy()[None] for name in ("head", "left", "right")}
    canvas = scale_pixels(join_cameras(images, LightWAMConfig.robotwin().cameras))
    for row in (255, 256):
        assert (canvas[0, :, row] - GOLDEN[f"robotwin.out_row{row}"]).abs().max() < 1e-5
    assert (canvas[:, :, ::4, ::4] - GOLDEN["robotwin.out"]).abs().max() < 1e-5


def test_resize_matches() -> None:
    resized = resize_images(GOLDEN["real.raw480"].numpy()[None], 32, 32)
    assert (resized - GOLDEN["real.half_of_64crop"]).abs().max() < 1e-5


def test_uint8_canvas_rounds() -> None:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (2, 100, 90, 3), dtype=np.uint8) for name in ("agentview", "wrist")}
    layout = LightWAMConfig.nano().cameras
    exact = join_cameras(images, layout).permute(0, 2, 3, 1) * 255
    assert (torch.from_numpy(canvas_uint8(images, layout)).float() - exact).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("in_data", FLIPS)
@pytest.mark.parametrize("on_robot", FLIPS)
def test_images_of_a_data_set_turned_as_the_live_robots(in_data: Orientation, on_robot: Orientation) -> None:
    """Turned upright, both are the same image."""
    camera = Camera("eye", 0, 0, 16, 16, in_data, on_robot)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    live = as_on_robot(images, camera)
    upright = join_cameras({"eye": images}, CameraLayout((camera,)))
    seen_live = join_cameras({"eye": live}, CameraLayout((replace(camera, in_data=on_robot),)))
    assert torch.equal(upright, seen_live)


def test_bad_images() -> None:
    layout = LightWAMConfig.nano().cameras
    good = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(DataError, match="cameras are"):
        join_cameras({"agentview": good}, layout)
    with pytest.raises(DataError, match="counts differ"):
        join_cameras({"agentview": good, "wrist": np.zeros((2, 8, 8, 3), np.uint8)}, layout)
    with pytest.raises(DataError, match="'wrist' are float32"):
        join_cameras({"agentview": good, "wrist": good.astype(np.float32)}, layout)
