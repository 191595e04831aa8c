# SPDX-License-Identifier: Apache-2.0
"""The number formats of an engine file, and for NumPy bfloat16 (the upper 16 bits of a float32) and e4m3 (as bits)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightwam.kernels.formats import e4m3_values

#: f8: e4m3 without infinities; 448 is the largest number.
DType = Literal["f32", "bf16", "f16", "f8", "i32", "i8"]
Array = NDArray[Any]
Shape = tuple[int, ...]

ITEM_SIZE: dict[DType, int] = {"f32": 4, "bf16": 2, "f16": 2, "f8": 1, "i32": 4, "i8": 1}
#: How an array of each format is held in NumPy; bfloat16 and e4m3 as their bits.
NUMPY_DTYPE: dict[DType, Any] = {
    "f32": np.float32,
    "bf16": np.uint16,
    "f16": np.float16,
    "f8": np.uint8,
    "i32": np.int32,
    "i8": np.int8,
}
SAFETENSORS_NAME: dict[DType, str] = {
    "f32": "F32",
    "bf16": "BF16",
    "f16": "F16",
    "f8": "F8_E4M3",
    "i32": "I32",
    "i8": "I8",
}
#: Formats of numbers that have a scale beside them.
EIGHT_BITS: tuple[DType, ...] = ("i8", "f8")


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
    """Numbers as a file holds them -> numbers to compute with: floats become float32, integers stay."""
    if dtype == "bf16":
        return bf16_bits_to_f32(stored)
    if dtype == "f8":
        return e4m3_values(stored)
    return stored.astype(np.float32) if dtype == "f16" else stored
