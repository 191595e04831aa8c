# SPDX-License-Identifier: Apache-2.0
"""Bad observations: one typed line each, and the policy serves the next good call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.engine_files import TASK, observation, small_engine, write_engine
from lightwam.errors import ObservationError
from lightwam.runtime import Policy

Spoil = Callable[[dict[str, Any]], Any]


def put(key: str, value: object) -> Spoil:
    return lambda seen: {**seen, key: value}


def put_image(name: object, value: object) -> Spoil:
    return lambda seen: {**seen, "images": {**seen["images"], name: value}}


def without(key: str) -> Spoil:
    return lambda seen: {k: v for k, v in seen.items() if k != key}


def without_image(name: str) -> Spoil:
    return lambda seen: {**seen, "images": {k: v for k, v in seen["images"].items() if k != name}}


def zeros(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.zeros(shape, dtype=dtype)


BAD_IMAGES: list[tuple[str, Spoil, str]] = [
    ("no images", without("images"), "has no 'images'"),
    ("no state", without("state"), "has no 'state'"),
    ("extra key", put("prompt", "x"), "key 'prompt' is unknown"),
    ("latents too", put("latents", zeros(3, 8, 16, dtype=np.float32)), "key 'latents' is unknown"),
    ("not a dictionary", lambda seen: [seen], "the observation is a list"),
    ("images no dictionary", put("images", zeros(8, 8, 3)), "images is uint8"),
    ("missing camera", without_image("wrist"), "camera 'wrist' is missing; expected the cameras 'agentview', 'wrist'"),
    ("extra camera", put_image("left", zeros(8, 8, 3)), "camera 'left' is not one of this engine"),
    ("camera name no text", put_image(3, zeros(8, 8, 3)), "camera 3 is not one"),
    ("float image", put_image("wrist", zeros(8, 8, 3, dtype=np.float32)), "camera 'wrist' is float32"),
    ("signed image", put_image("wrist", zeros(8, 8, 3, dtype=np.int8)), "camera 'wrist' is int8"),
    ("image a list", put_image("wrist", [[[1, 2, 3]]]), "camera 'wrist' is a list"),
    ("image None", put_image("wrist", None), "camera 'wrist' is a NoneType"),
    ("grey image", put_image("wrist", zeros(8, 8)), r"camera 'wrist' is uint8 \[8, 8\]"),
    ("batched image", put_image("wrist", zeros(1, 8, 8, 3)), r"uint8 \[1, 8, 8, 3\]"),
    ("four channels", put_image("wrist", zeros(8, 8, 4)), r"uint8 \[8, 8, 4\]"),
    ("channels first", put_image("wrist", zeros(3, 8, 8)), "rows first, channels last"),
    ("no rows", put_image("wrist", zeros(0, 8, 3)), "camera 'wrist' is empty"),
    ("no columns", put_image("wrist", zeros(8, 0, 3)), "camera 'wrist' is empty"),
    ("huge", put_image("wrist", np.broadcast_to(zeros(1, 1, 3), (70000, 1, 3))), "70000 x 1 pixels"),
    ("one too high", put_image("wrist", np.broadcast_to(zeros(1, 1, 3), (16385, 1, 3))), "expected 1 to 16384"),
    ("state too long", put("state", zeros(6, dtype=np.float32)), r"state is float32 \[6\]; expected .* \[5\]"),
    ("state too short", put("state", zeros(4, dtype=np.float32)), r"state is float32 \[4\]"),
    ("state batched", put("state", zeros(1, 5, dtype=np.float32)), r"state is float32 \[1, 5\]"),
    ("state of integers", put("state", zeros(5, dtype=np.int64)), "state is int64"),
    ("state a list", put("state", [0.0] * 5), "state is a list"),
    ("state of objects", put("state", zeros(5, dtype=object)), "state is object"),
    ("NaN", put("state", np.array([0, 0, np.nan, 0, 0])), r"state\[2\] is nan"),
    ("infinite", put("state", np.array([0, 0, 0, 0, -np.inf])), r"state\[4\] is -inf"),
    ("too large for f32", put("state", np.array([1e300, 0, 0, 0, 0])), r"state\[0\] is inf"),
]

BAD_LATENTS: list[tuple[str, Spoil, str]] = [
    ("no latents", without("latents"), "has no 'latents'"),
    ("images instead", put("images", {}), "key 'images' is unknown"),
    ("wrong shape", put("latents", zeros(3, 8, 15, dtype=np.float32)), r"latents is float32 \[3, 8, 15\]"),
    ("wrong dtype", put("latents", zeros(3, 8, 16, dtype=np.float64)), "latents is float64"),
    ("batched", put("latents", zeros(1, 3, 8, 16, dtype=np.float32)), r"expected a numpy array, float32 \[3, 8, 16\]"),
    ("NaN", put("latents", np.full((3, 8, 16), np.nan, dtype=np.float32)), r"latents\[0\] is .*nan"),
]


def check_refused(policy: Policy, images: bool, spoil: Spoil, message: str) -> None:
    good = observation(images)
    before = policy.infer(good).actions
    with pytest.raises(ObservationError, match=message) as caught:
        policy.infer(spoil(observation(images, seed=11)))
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(policy.infer(good).actions, before)


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in BAD_IMAGES], ids=[case[0] for case in BAD_IMAGES])
def test_bad_observation_of_images(policy: Policy, spoil: Spoil, message: str) -> None:
    check_refused(policy, True, spoil, message)


@pytest.mark.parametrize(
    ("spoil", "message"), [case[1:] for case in BAD_LATENTS], ids=[case[0] for case in BAD_LATENTS]
)
def test_bad_observation_of_latents(tmp_path: Path, spoil: Spoil, message: str) -> None:
    policy = Policy(write_engine(tmp_path / "e.lwam", small_engine(images=False)), threads=1)
    policy.set_instruction(TASK)
    check_refused(policy, False, spoil, message)
