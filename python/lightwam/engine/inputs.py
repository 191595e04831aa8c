# SPDX-License-Identifier: Apache-2.0
"""What a policy sees, and random inputs of an engine's own shape: for latency, parity and random weights.

All random numbers follow from the generator, in a fixed order: the state, then images or latents. Eight-bit engines and
their reports depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightwam.arithmetic import default_arithmetic
from lightwam.errors import EngineError

#: The instruction of engines with a text encoder beside random observations.
RANDOM_INSTRUCTION = "pick up the alphabet soup and place it in the basket"
DEFAULT_IMAGE_SIZE = (256, 256)


@dataclass(frozen=True, eq=False)
class Observation:
    """What a policy sees.

    state: float32 [P] in robot units. images: {camera: uint8 RGB [h, w, 3]}, or latents: [Z, h, w].
    """

    instruction: str
    state: NDArray[np.float32]
    images: dict[str, NDArray[np.uint8]] | None = None
    latents: NDArray[np.float32] | None = None

    def inputs(self) -> dict[str, Any]:
        """As `lightwam.runtime.Policy.infer` takes it."""
        seen: dict[str, Any] = {"images": self.images} if self.images is not None else {"latents": self.latents}
        return {**seen, "state": self.state}


def random_state(policy: Mapping[str, Any], rng: np.random.Generator) -> NDArray[np.float32]:
    """A state [P] in robot units: normal numbers in normalised ones. `policy`: that section of an engine's document."""
    state = rng.standard_normal(policy["state_width"])
    units = policy["normalizer"]
    if units:  # informative: a foreign engine may leave it empty
        try:
            state = (state - np.asarray(units["state_offset"], float)) / np.asarray(units["state_scale"], float)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise EngineError(f"policy.normalizer lacks or mistypes {error}: export the policy again") from error
    return np.asarray(state, np.float32)


def random_view(
    policy: Mapping[str, Any], rng: np.random.Generator, image_size: tuple[int, int] = DEFAULT_IMAGE_SIZE
) -> dict[str, Any]:
    """Noise: {"images": {camera: uint8 [height, width, 3]}}, or {"latents": float32 [Z, h, w]}."""
    if policy["starts_at"] == "latents":
        return {"latents": rng.standard_normal(policy["latent_shape"]).astype(np.float32)}
    shape = (*image_size, 3)
    return {"images": {camera["name"]: rng.integers(0, 256, shape, np.uint8) for camera in policy["cameras"]}}


@default_arithmetic
def random_observation(
    policy: Mapping[str, Any], rng: np.random.Generator, image_size: tuple[int, int] = DEFAULT_IMAGE_SIZE
) -> dict[str, Any]:
    """Both, as `lightwam.runtime.Policy.infer` takes them."""
    state = random_state(policy, rng)
    return {**random_view(policy, rng, image_size), "state": state}
