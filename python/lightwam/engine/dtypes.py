# SPDX-License-Identifier: Apache-2.0
"""The number formats of an engine file, and how NumPy holds them: bfloat16 and e4m3 as their bits."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightwam.kernels.formats import STORAGE, bfloat16_values, e4m3_values

#: f8: e4m3 without infinities; 448 is the largest number.
DType = Literal["f32", "bf16", "f16", "f8", "i32", "i8"]
Array = NDArray[Any]
Shape = tuple[int, ...]

SAFETENSORS_NAME: dict[DType, str] = {
    "f32": "F32",
    "bf16": "BF16",
    "f16": "F16",
    "f8": "F8_E4M3",
    "i32": "I32",
    "i8": "I8",
}
NUMPY_DTYPE: dict[DType, np.dtype[Any]] = {dtype: STORAGE[dtype] for dtype in SAFETENSORS_NAME}
ITEM_SIZE: dict[DType, int] = {dtype: held.itemsize for dtype, held in NUMPY_DTYPE.items()}
#: Formats of numbers that have a scale beside them.
EIGHT_BITS: tuple[DType, ...] = ("i8", "f8")


def decode(stored: Array, dtype: DType) -> Array:
    """Numbers as a file holds them -> numbers to compute with: floats become float32, integers stay."""
    if dtype == "bf16":
        return bfloat16_values(stored)
    if dtype == "f8":
        return e4m3_values(stored)
    return stored.astype(np.float32) if dtype == "f16" else stored
