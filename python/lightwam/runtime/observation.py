# SPDX-License-Identifier: Apache-2.0
"""Checks of an observation's types and camera names; sizes and finiteness are checked in C++."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, TypeGuard

import numpy as np
from numpy.typing import NDArray

from lightwam.errors import ObservationError


class Observation(TypedDict, total=False):
    """What `Policy.infer` takes. An engine starts at images or at latents and takes that key, and `state`.

    images: camera name -> uint8 [height, width, 3], any size and any strides; RGB, or BGR for a policy that was made
        with `color_order="bgr"`. A broadcast image (a stride of zero) is copied first, any other is read in place.
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


#: Larger frames are refused in C++.
_MAX_IMAGE_SIZE = 16384

#: Images, latents and state as arrays of the right type; the dictionary is a copy, so the caller may change theirs.
CheckedObservation = tuple[dict[str, NDArray[np.uint8]], NDArray[np.float32] | None, NDArray[np.float32]]


def _is_plain(value: object) -> TypeGuard[NDArray[Any]]:
    """Whether this is an array of plain numbers: no mask, and no unit that would get lost."""
    if type(value) is np.ndarray:
        return True
    is_array = isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)
    return is_array and not (hasattr(value, "unit") or hasattr(value, "units"))


def _describe(value: object) -> str:
    if isinstance(value, np.ma.MaskedArray):
        return f"a masked array, {value.dtype} {list(value.shape)} (its .filled(...) is a plain one)"
    if isinstance(value, np.ndarray) and not _is_plain(value):
        return f"a {type(value).__name__} with a unit (take its plain numbers, in the units of the training data)"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"


def _is_float(dtype: np.dtype[Any], *sizes: int) -> bool:
    """Whether these are floats of one of these sizes in bytes, in any byte order."""
    return dtype.kind == "f" and dtype.itemsize in sizes


def _check_image(name: object, image: object) -> NDArray[np.uint8]:
    if not isinstance(name, str):
        raise ObservationError(f"camera name {name!r} is {_describe(name)}; expected a string")
    expected = "expected a numpy array, uint8 [height, width, 3]"
    if not _is_plain(image) or image.dtype != np.uint8:
        raise ObservationError(f"image of camera {name!r} is {_describe(image)}; {expected}")
    if image.ndim != 3 or image.shape[2] != 3:
        hint = " (rows first, channels last)" if image.ndim == 3 and image.shape[0] == 3 else ""
        hint = " (image[..., :3] leaves the fourth channel out)" if image.ndim == 3 and image.shape[2] == 4 else hint
        raise ObservationError(f"image of camera {name!r} is {_describe(image)}; {expected}{hint}")
    if image.size == 0:
        raise ObservationError(f"image of camera {name!r} is empty, {_describe(image)}; {expected}")
    broadcast = not all(image.strides) and max(image.shape) <= _MAX_IMAGE_SIZE
    return np.ascontiguousarray(image) if broadcast else image


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
    if not _is_plain(latents) or not _is_float(latents.dtype, 4) or latents.shape != shape:
        raise ObservationError(f"latents is {_describe(latents)}; expected a numpy array, float32 {list(shape)}")
    return np.ascontiguousarray(latents, dtype=np.float32)


def _check_state(state: object, width: int) -> NDArray[np.float32]:
    if not _is_plain(state) or not _is_float(state.dtype, 4, 8) or state.shape != (width,):
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
