# SPDX-License-Identifier: Apache-2.0
"""Photometric augmentation against Pillow and the standard library's HSV, and what it follows from."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from helpers.golden_data import LEROBOT, dataset, libero, statistics
from lightwam.config import LightWAMConfig
from lightwam.data.augment import Augmentation, augment, rectangles, shifted, turn_hue, variant_of
from lightwam.data.samples import DecodedFrames, SampleOptions, Samples
from lightwam.errors import ConfigError

NOTHING = Augmentation(brightness=0, contrast=0, saturation=0, hue=0, noise=0, shift=0)
PLACE = [(0, 0, 24, 32)]


def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)


def clip(frames: int = 1) -> torch.Tensor:
    return torch.from_numpy(picture()).permute(2, 0, 1)[None].repeat(frames, 1, 1, 1) / 255.0


@pytest.mark.parametrize(
    ("name", "enhancer"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
def test_against_pillow(name: str, enhancer: type) -> None:
    for key in range(6):
        how = replace(NOTHING, **{name: 0.9})
        ours = augment(clip(), PLACE, how, key)[0]
        # The factor is what reproduces our mean; then every pixel must agree within Pillow's rounding.
        factors = np.linspace(0.1, 1.9, 361)
        images = [np.asarray(enhancer(Image.fromarray(picture())).enhance(f)) for f in factors]
        errors = [np.abs(image / 255.0 - ours.permute(1, 2, 0).numpy()).max() for image in images]
        assert min(errors) * 255 < 2.5, (key, min(errors) * 255)


def test_hue_against_the_standard_library() -> None:
    pixels = clip().double()
    for turns in (0.25, -0.1, 0.5, 1 / 3):
        ours = turn_hue(pixels, turns)[0].permute(1, 2, 0).reshape(-1, 3).numpy()
        for found, given in zip(ours, picture().reshape(-1, 3) / 255.0, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*given)
            assert np.allclose(found, colorsys.hsv_to_rgb((h + turns) % 1.0, s, v), atol=1e-12)
    grey = torch.full((1, 3, 2, 2), 0.4)
    assert torch.equal(turn_hue(grey, 0.3), grey)


def test_shift_repeats_edges() -> None:
    pixels = clip()
    moved = shifted(pixels, 2, -3).numpy()
    padded = np.pad(pixels.numpy(), ((0, 0), (0, 0), (2, 0), (0, 3)), mode="edge")[..., :24, 3:]
    assert np.array_equal(moved, padded)
    assert torch.equal(shifted(pixels, 0, 0), pixels)


def test_noise_has_its_deviation_and_is_new_in_each_frame() -> None:
    grey = torch.full((4, 3, 64, 64), 0.5)
    made = augment(grey, [(0, 0, 64, 64)], replace(NOTHING, noise=0.05), 1)
    assert abs(float((made - 0.5).std()) - 0.05) < 0.002 and abs(float((made - 0.5).mean())) < 0.002
    assert not torch.equal(made[0], made[1])


def test_numbers_follow_from_the_key_and_hold_for_a_clip_and_a_camera() -> None:
    how = Augmentation(noise=0)
    two = [(0, 0, 24, 16), (0, 16, 24, 16)]
    pixels = clip(3)
    made = augment(pixels, two, how, 5, 0, 7)
    assert torch.equal(made, augment(pixels, two, how, 5, 0, 7)) and torch.equal(made[0], made[2])
    assert not torch.equal(made, augment(pixels, two, how, 5, 1, 7))
    same = torch.cat([pixels[..., :16], pixels[..., :16]], -1)  # two cameras that see the same
    left, right = augment(same, two, how, 5).split(16, dim=-1)
    assert not torch.allclose(left, right)
    assert float(made.min()) >= 0 and float(made.max()) <= 1
    assert augment(pixels, two, NOTHING, 5) is pixels
    for wrong in ({"hue": 0.6}, {"brightness": -0.1}, {"noise": float("nan")}):
        with pytest.raises(ConfigError, match="augmentation"):
            Augmentation(**wrong)


def test_variants_come_once_each_in_as_many_epochs() -> None:
    for sample in range(20):
        assert sorted(variant_of(3, sample, epoch, 5) for epoch in range(5)) == list(range(5))
    assert len({tuple(variant_of(3, s, e, 5) for e in range(5)) for s in range(50)}) == 5


def test_samples_of_an_epoch() -> None:
    config, data = libero(), dataset(LEROBOT, "libero_tiny")
    options = SampleOptions(augmentation=Augmentation(), seed=1)
    frames = DecodedFrames(data, config)
    document = statistics(LEROBOT, "libero_tiny")
    plain = Samples(data, config, document, frames=frames)[3]["video"]
    samples = Samples(data, config, document, options, frames=frames)
    first, second = samples[3, 0], samples[3, 1]
    assert torch.equal(first["video"], samples[3]["video"]) and not torch.equal(first["video"], plain)
    assert not torch.equal(first["video"], second["video"]) and torch.equal(first["action"], second["action"])
    assert float((first["video"] - plain).abs().mean()) < 0.6


def test_rectangles_of_a_canvas_that_was_cut() -> None:
    layout = LightWAMConfig.libero().cameras
    assert rectangles(layout, (224, 448)) == [(0, 0, 224, 224), (0, 224, 224, 224)]
    assert rectangles(layout, (96, 96)) == [(0, 0, 96, 96)]
