# SPDX-License-Identifier: Apache-2.0
"""Light, colour, sensor noise and blur, as transforms of the finished frames; lamps and materials stay as they are.

All cameras and all frames of a trial are changed alike; only the noise is new in each frame. Legend: H x W image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from lightwam.runtime import Observation
from lightwam.sim.env import Array
from lightwam.sim.perturb.wrapper import Perturbed

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601
_USUAL_HEIGHT = 256  # pixels, of which strengths in pixels are


class _Frames(Perturbed):
    """Changes every image, those of videos too, so that they show what the policy saw."""

    @abstractmethod
    def change(self, image_HW3: Array, camera: int) -> Array:
        """A float32 image in 0..255, changed; the caller clips it."""

    def _changed(self, image_HW3: Array, camera: int) -> Array:
        changed = self.change(np.asarray(image_HW3, np.float32), camera)
        return np.asarray(np.clip(np.rint(changed), 0, 255), np.uint8)

    def observation(self) -> Observation:
        seen = self.inner.observation()
        images = {name: self._changed(image, at) for at, (name, image) in enumerate(seen["images"].items())}
        return {**seen, "images": images}

    def picture(self) -> Array:
        return self._changed(self.inner.picture(), -1)


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


class Light(_Frames):
    """Brightness times 1 + s or 1 - s; then contrast about the image's mean likewise."""

    axis = "light"
    strengths = (0.15, 0.3, 0.5)

    def draw(self, rng: np.random.Generator) -> None:
        self.brightness, self.contrast = (1 + _sign(rng) * self.strength for _ in range(2))

    def change(self, image_HW3: Array, camera: int) -> Array:
        bright = np.minimum(image_HW3 * np.float32(self.brightness), 255)
        mean = bright.mean(dtype=np.float64)
        return np.asarray((bright - mean) * self.contrast + mean)


class Colour(_Frames):
    """Hue turned about the grey axis by s turns either way; saturation times 1 + 5 s or 1 - 5 s."""

    axis = "colour"
    strengths = (0.03, 0.06, 0.12)

    def draw(self, rng: np.random.Generator) -> None:
        turn, saturation = 2 * np.pi * _sign(rng) * self.strength, 1 + _sign(rng) * 5 * self.strength
        cosine, sine, third = np.cos(turn), np.sin(turn) / np.sqrt(3), (1 - np.cos(turn)) / 3
        turned = third + np.array([[cosine, -sine, sine], [sine, cosine, -sine], [-sine, sine, cosine]])
        grey = np.tile(_GREY, (3, 1))
        self.matrix = ((saturation * np.eye(3) + (1 - saturation) * grey) @ turned).astype(np.float32)

    def change(self, image_HW3: Array, camera: int) -> Array:
        return np.asarray(image_HW3 @ self.matrix.T)


class Noise(_Frames):
    """Independent normal noise of s grey levels (of 255) in each pixel and channel, new in each frame."""

    axis = "noise"
    strengths = (6, 15, 30)

    def draw(self, rng: np.random.Generator) -> None:
        self.steps = 0

    def step(self, action_A: Sequence[float] | Array, *, render: bool = False) -> bool:
        self.steps += 1
        return self.inner.step(action_A, render=render)

    def change(self, image_HW3: Array, camera: int) -> Array:
        rng = self.generator(self.steps, camera + 1)  # not of how many frames were looked at before
        return np.asarray(image_HW3 + self.strength * rng.standard_normal(image_HW3.shape, dtype=np.float32))


class Blur(_Frames):
    """Gaussian blur with a standard deviation of s pixels at 256 lines."""

    axis = "blur"
    strengths = (0.8, 1.6, 3.0)

    def change(self, image_HW3: Array, camera: int) -> Array:
        sigma = self.strength * image_HW3.shape[0] / _USUAL_HEIGHT
        reach = max(1, round(3 * sigma))
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
        weights /= weights.sum()
        for side in (0, 1):
            size = image_HW3.shape[side]
            padded = np.pad(image_HW3, [(reach, reach) if at == side else (0, 0) for at in range(3)], mode="edge")
            shifted = (padded.take(range(start, start + size), axis=side) for start in range(2 * reach + 1))
            image_HW3 = np.asarray(sum(w * s for w, s in zip(weights, shifted, strict=True)))
        return image_HW3
