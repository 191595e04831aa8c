# SPDX-License-Identifier: Apache-2.0
"""The number formats of an engine file, and bfloat16 for NumPy (kept as the upper 16 bits of a float32)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

DType = Literal["f32", "bf16", "f16", "i32", "i8"]
Array = NDArray[Any]
Shape = tuple[int, ...]

ITEM_SIZE: dict[DType, int] = {"f32": 4, "bf16": 2, "f16": 2, "i32": 4, "i8": 1}
#: How an array of each format is held in NumPy; bfloat16 as its bits.
NUMPY_DTYPE: dict[DType, Any] = {
    "f32": np.float32,
    "bf16": np.uint16,
    "f16": np.float16,
    "i32": np.int32,
    "i8": np.int8,
}
SAFETENSORS_NAME: dict[DType, str] = {"f32": "F32", "bf16": "BF16", "f16": "F16", "i32": "I32", "i8": "I8"}


def num_elements(shape: Shape) -> int:
    """Product of the sides; 1 for a scalar."""
    total = 1
    for side in shape:
        total *= side
    return total


def num_bytes(dtype: DType, shape: Shape) -> int:
    """Bytes of a dense array."""
    return ITEM_SIZE[dtype] * num_elements(shape)


def f32_to_bf16_bits(values: Array) -> NDArray[np.uint16]:
    """Round float32 to bfloat16 (nearest, ties to even) and return the 16-bit patterns; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    quiet_nan = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.asarray(np.where(np.isnan(values), quiet_nan, rounded), np.uint16)


def bf16_bits_to_f32(bits: Array) -> NDArray[np.float32]:
    """Widen bfloat16 patterns (uint16) to float32, exactly."""
    return np.asarray((bits.astype(np.uint32) << np.uint32(16)).view(np.float32))


def decode(stored: Array, dtype: DType) -> Array:
    """Numbers as a file holds them -> numbers to compute with: those of 16 bits become float32, the rest stays."""
    if dtype == "bf16":
        return bf16_bits_to_f32(stored)
    return stored.astype(np.float32) if dtype == "f16" else stored
