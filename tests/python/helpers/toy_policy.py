# SPDX-License-Identifier: Apache-2.0
"""The small engine's toy kernels (gpu_plans.py), computed with NumPy for the stand-in driver."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.standin import Launch


def floats(address: int, *shape: int) -> NDArray[np.float32]:
    """The float32 array at an address, to read and write."""
    size = int(np.prod(shape))
    array: NDArray[Any] = np.ctypeslib.as_array((ctypes.c_float * size).from_address(address)).reshape(shape)
    return array


def run_toy(launch: Launch) -> None:
    """Compute a launch; all tactics of a kernel compute the same."""
    a, name = launch.addresses, launch.entry.partition("_kernel")[0]
    if name == "encode":
        rows = ctypes.c_int32.from_address(a[1]).value
        floats(a[2], 6, 8)[:] = floats(a[0], 6, 8) * rows
    elif name == "look":
        sizes = (ctypes.c_int32 * 4).from_address(a[2])
        counts = [sizes[0] * sizes[1] * 3, sizes[2] * sizes[3] * 3]
        frames = [(ctypes.c_uint8 * count).from_address(at) for count, at in zip(counts, a, strict=False)]
        floats(a[3], 8)[:] = [*(np.mean(np.ctypeslib.as_array(frame)) for frame in frames), *sizes, 0, 0]
    elif name == "mix":
        inner = floats(a[2], 8, 5) @ floats(a[4], 5) + floats(a[3], 8) + floats(a[1], 8)
        floats(a[5], 8)[:] = inner + floats(a[0], 6, 8).sum(axis=0)
    elif name == "double":
        floats(a[1], 8)[:] = 2 * floats(a[0], 8)
    else:
        floats(a[1], 12)[:] = np.resize(floats(a[0], 8), 12)
