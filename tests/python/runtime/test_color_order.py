# SPDX-License-Identifier: Apache-2.0
"""BGR frames, and frames in every layout that NumPy can describe: the actions are those of a packed RGB copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from helpers.engine_files import TASK, observation
from lightwam.errors import ObservationError
from lightwam.runtime import Policy

Image = NDArray[np.uint8]

LAYOUTS: dict[str, Callable[[Image], Image]] = {
    "packed": lambda image: image,
    "upside down": lambda image: image[::-1].copy()[::-1],
    "mirrored": lambda image: image[:, ::-1].copy()[:, ::-1],
    "channels reversed": lambda image: image[..., ::-1].copy()[..., ::-1],
    "planes": lambda image: image.transpose(2, 0, 1).copy().transpose(1, 2, 0),
    "columns first": lambda image: image.transpose(1, 0, 2).copy().transpose(1, 0, 2),
    "Fortran": np.asfortranarray,
    "of four channels": lambda image: np.dstack([image, image[..., :1]])[..., :3],
    "every second": lambda image: image.repeat(2, 0).repeat(2, 1)[::2, ::2],
    "read-only": lambda image: np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
    "unaligned": lambda image: np.frombuffer(b"x" + image.tobytes(), np.uint8, offset=1).reshape(image.shape),
}


def with_images(seen: dict[str, Any], make: Callable[[Image], Image]) -> dict[str, Any]:
    return {**seen, "images": {name: make(image) for name, image in seen["images"].items()}}


@pytest.fixture
def bgr_policy(engine_path: Path) -> Policy:
    policy = Policy(engine_path, threads=1, color_order="bgr")
    policy.set_instruction(TASK)
    return policy


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bgr_is_rgb_of_the_swapped_frame(policy: Policy, bgr_policy: Policy, layout: str) -> None:
    for size in ((12, 10), (8, 8), (1, 1), (33, 65)):
        rgb = observation(size=size)
        expected = policy.infer(rgb).actions
        bgr = with_images(rgb, lambda image: image[..., ::-1].copy())
        np.testing.assert_array_equal(bgr_policy.infer(with_images(bgr, LAYOUTS[layout])).actions, expected)
        np.testing.assert_array_equal(policy.infer(with_images(rgb, LAYOUTS[layout])).actions, expected)
        assert (policy.infer(bgr).actions != expected).any()


def test_broadcast_frames_are_those_of_their_copies(policy: Policy) -> None:
    for source in (np.full((1, 1, 3), 90, np.uint8), np.arange(36, dtype=np.uint8).reshape(12, 1, 3)):
        broadcast = np.broadcast_to(source, (12, 10, 3))
        seen = with_images(observation(), lambda _, image=broadcast: image)  # type: ignore[misc]
        copied = with_images(seen, np.ascontiguousarray)
        np.testing.assert_array_equal(policy.infer(seen).actions, policy.infer(copied).actions)


def test_overlapping_pixels_are_refused(policy: Policy) -> None:
    """A window that slides over a row: its strides are not zero, and it is more likely an error than an image."""
    overlapping = as_strided(np.zeros(400, np.uint8), (12, 10, 3), (10, 1, 1))
    with pytest.raises(ObservationError, match=r"strides 10, 1, 1 bytes .* packed they are 30, 3, 1"):
        policy.infer(with_images(observation(), lambda _: overlapping))


@pytest.mark.parametrize("order", ["BGR", "rgba", "", None, 3, ["rgb"]])
def test_unknown_orders_are_refused(engine_path: Path, order: Any) -> None:
    with pytest.raises(ObservationError, match=r"color_order is .*; expected 'rgb' or 'bgr'"):
        Policy(engine_path, color_order=order)


class Quantity(np.ndarray[Any, Any]):
    """What libraries of units make of an array."""

    unit = "deg"


BAD: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "masked image": ("images", np.ma.masked_equal, "camera 'agentview' is a masked array, uint8"),
    "image of uint16": ("images", lambda x: x.astype(np.uint16), "camera 'agentview' is uint16"),
    "image in 0..1": ("images", lambda x: x / np.float32(255), "camera 'agentview' is float32"),
    "BGRA": ("images", lambda x: np.dstack([x, x[..., :1]]), r"image\[..., :3\] leaves the fourth channel out"),
    "grey": ("images", lambda x: x[..., :1], r"uint8 \[12, 10, 1\]"),
    "masked state": ("state", lambda x: np.ma.masked_array(x, [0, 1, 0, 0, 0]), "state is a masked array"),
    "state without a mask": ("state", np.ma.masked_array, "state is a masked array"),
    "state with a unit": ("state", lambda x: x.view(Quantity), "state is a Quantity with a unit"),
    "complex state": ("state", lambda x: x.astype(complex), "state is complex128"),
    "state of texts": ("state", lambda x: x.astype(str), "state is <U"),
    "half state": ("state", lambda x: x.astype(np.float16), "state is float16"),
    "state as a row": ("state", lambda x: x[None], r"state is float32 \[1, 5\]"),
    "boolean state": ("state", lambda x: x > 0, "state is bool"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_only_looks_like_an_array_is_refused(policy: Policy, case: str) -> None:
    key, spoil, message = BAD[case]
    seen = observation()
    if case == "masked image":
        spoil = lambda x: np.ma.masked_equal(x, 0)  # noqa: E731
    spoilt = with_images(seen, spoil) if key == "images" else {**seen, key: spoil(seen[key])}
    with pytest.raises(ObservationError, match=message) as caught:
        policy.infer(spoilt)
    assert "\n" not in str(caught.value)


def test_byte_order_and_subclasses_without_meaning_change_nothing(policy: Policy, tmp_path: Path) -> None:
    seen = observation()
    expected = policy.infer(seen).actions
    for made in (seen["state"].astype(">f4"), seen["state"].astype("<f8"), seen["state"].astype(">f8")):
        np.testing.assert_array_equal(policy.infer({**seen, "state": made}).actions, expected)
    seen["images"]["wrist"].tofile(tmp_path / "wrist")
    mapped = np.memmap(tmp_path / "wrist", np.uint8, "r", shape=(12, 10, 3))
    images = {**seen["images"], "wrist": mapped}
    np.testing.assert_array_equal(policy.infer({**seen, "images": images}).actions, expected)
