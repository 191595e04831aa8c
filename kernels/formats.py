# SPDX-License-Identifier: Apache-2.0
"""Elements of arguments as NumPy arrays. NumPy has no bfloat16: its 16 bits are kept in uint16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightwam.kernels.task import DType

Array = NDArray[Any]
STORAGE: Mapping[DType, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
    "i8": np.dtype(np.int8),
    "i32": np.dtype(np.int32),
    "u8": np.dtype(np.uint8),
}


def bfloat16_bits(x: Array) -> NDArray[np.uint16]:
    """Float32 values as bfloat16, rounded to nearest, ties to even; NaN stays NaN. Same shape."""
    values = np.asarray(x, np.float32)
    bits = values.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    quiet_nan = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16)


def bfloat16_values(bits: Array) -> NDArray[np.float32]:
    """The float32 values of bfloat16 bits. Exact. Same shape."""
    return (np.asarray(bits, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def encode(x: Array, dtype: DType) -> Array:
    """Numbers as stored in `dtype`; floats are rounded to nearest, ties to even."""
    if dtype == "bf16":
        return bfloat16_bits(x)
    return np.asarray(x).astype(STORAGE[dtype])


def decode(stored: Array, dtype: DType) -> Array:
    """Stored numbers as float64, integers as int64. Exact."""
    if dtype == "bf16":
        return bfloat16_values(stored).astype(np.float64)
    return stored.astype(np.float64 if dtype in ("f32", "f16") else np.int64)
