# SPDX-License-Identifier: Apache-2.0
"""Checks of an observation's types and camera names; sizes and finiteness are checked in C++."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from lightwam.errors import ObservationError


class Observation(TypedDict, total=False):
    """What `Policy.infer` takes. An engine starts at images or at latents and takes that key, and `state`.

    images: camera name -> uint8 [height, width, 3], RGB as the camera delivers it, any size and any strides.
    latents: float32 [C, h, w], normalised.
    state: float32 or float64 [P] in robot units.
    """

    images: Mapping[str, NDArray[np.uint8]]
    latents: NDArray[np.float32]
    state: NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class ObservationShape:
    """What an engine expects. cameras is None when it starts at latents, latents is None when it starts at images."""

    cameras: tuple[str, ...] | None
    latents: tuple[int, int, int] | None
    state_width: int


#: Images, latents and state as arrays of the right type; the dictionary is a copy, so the caller may change theirs.
CheckedObservation = tuple[dict[str, NDArray[np.uint8]], NDArray[np.float32] | None, NDArray[np.float32]]


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"


def _check_image(name: object, image: object) -> NDArray[np.uint8]:
    if not isinstance(name, str):
        raise ObservationError(f"camera name {name!r} is {_describe(name)}; expected a string")
    expected = "expected a numpy array, uint8 [height, width, 3]"
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise ObservationError(f"image of camera {name!r} is {_describe(image)}; {expected}")
    if image.ndim != 3 or image.shape[2] != 3:
        hint = " (rows first, channels last)" if image.ndim == 3 and image.shape[0] == 3 else ""
        raise ObservationError(f"image of camera {name!r} is {_describe(image)}; {expected}{hint}")
    if image.size == 0:
        raise ObservationError(f"image of camera {name!r} is empty, {_describe(image)}; {expected}")
    return image


def _check_images(images: object, cameras: tuple[str, ...]) -> dict[str, NDArray[np.uint8]]:
    names = ", ".join(repr(camera) for camera in cameras)
    if not isinstance(images, Mapping):
        raise ObservationError(f"images is {_describe(images)}; expected a dictionary of cameras {names}")
    for camera in cameras:
        if camera not in images:
            raise ObservationError(f"camera {camera!r} is missing; expected the cameras {names}")
    for name in images:
        if name not in cameras:
            raise ObservationError(f"camera {name!r} is not one of this engine; expected the cameras {names}")
    return {name: _check_image(name, images[name]) for name in images}


def _check_latents(latents: object, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    if not isinstance(latents, np.ndarray) or latents.dtype != np.float32 or latents.shape != shape:
        raise ObservationError(f"latents is {_describe(latents)}; expected a numpy array, float32 {list(shape)}")
    return np.ascontiguousarray(latents)


def _check_state(state: object, width: int) -> NDArray[np.float32]:
    floats = (np.dtype(np.float32), np.dtype(np.float64))
    if not isinstance(state, np.ndarray) or state.dtype not in floats or state.shape != (width,):
        raise ObservationError(f"state is {_describe(state)}; expected a numpy array, float32 or float64 [{width}]")
    with np.errstate(all="ignore"):  # whatever numpy.seterr says; C++ refuses what is not finite
        return np.ascontiguousarray(state, dtype=np.float32)


def check_observation(observation: Mapping[str, Any], shape: ObservationShape) -> CheckedObservation:
    """Types, ranks and names of an observation. Raises ObservationError naming the camera or key, and the remedy."""
    if not isinstance(observation, Mapping):
        raise ObservationError(f"the observation is {_describe(observation)}; expected a dictionary")
    source = "images" if shape.cameras is not None else "latents"
    for key in (source, "state"):
        if key not in observation:
            raise ObservationError(f"the observation has no '{key}'; expected the keys '{source}' and 'state'")
    for key in observation:
        if key not in (source, "state"):
            raise ObservationError(f"the observation's key {key!r} is unknown; expected '{source}' and 'state'")
    state = _check_state(observation["state"], shape.state_width)
    if shape.cameras is not None:
        return _check_images(observation["images"], shape.cameras), None, state
    assert shape.latents is not None
    return {}, _check_latents(observation["latents"], shape.latents), state
