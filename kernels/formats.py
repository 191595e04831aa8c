# SPDX-License-Identifier: Apache-2.0
"""Elements of arguments as NumPy arrays. Those that NumPy lacks are kept as bits: bfloat16 in uint16, e4m3 in uint8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightwam.kernels.task import DType

Array = NDArray[Any]
#: Elements in memory, and what Triton calls pointers to them.
_FORMATS: Mapping[DType, tuple[type[np.generic], str]] = {
    "f32": (np.float32, "*fp32"),
    "f16": (np.float16, "*fp16"),
    "bf16": (np.uint16, "*bf16"),
    "f8": (np.uint8, "*fp8e4nv"),
    "i8": (np.int8, "*i8"),
    "i32": (np.int32, "*i32"),
    "u8": (np.uint8, "*u8"),
}
STORAGE: Mapping[DType, np.dtype[Any]] = {dtype: np.dtype(element) for dtype, (element, _) in _FORMATS.items()}
POINTERS: Mapping[DType, str] = {dtype: pointer for dtype, (_, pointer) in _FORMATS.items()}


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


E4M3_LARGEST = 448.0
_E4M3_NAN = 0x7F
_E4M3_SMALLEST_NORMAL = 2.0**-6
_E4M3_STEPS = 512.0  # 1 / the step of subnormal numbers


def e4m3_bits(x: Array) -> NDArray[np.uint8]:
    """Float32 values as e4m3, rounded to nearest, ties to even; beyond 448 they are 448, NaN stays. Same shape."""
    values = np.asarray(x, np.float32)
    magnitude = np.minimum(np.abs(values), np.float32(E4M3_LARGEST))
    bits = magnitude.view(np.uint32)
    # Three bits of the mantissa stay; exponents are counted from 2^-7 on, not from 2^-127.
    rounded = (bits + (np.uint32(0x7FFFF) + ((bits >> np.uint32(20)) & np.uint32(1)))) >> np.uint32(20)
    rounded -= np.uint32((127 - 7) << 3)
    with np.errstate(invalid="ignore"):
        subnormal = np.rint(magnitude * np.float32(_E4M3_STEPS)).astype(np.uint32)
    code = np.where(magnitude < np.float32(_E4M3_SMALLEST_NORMAL), subnormal, rounded)
    code = np.where(np.isnan(values), np.uint32(_E4M3_NAN), code)
    return (code | (np.signbit(values).astype(np.uint32) << np.uint32(7))).astype(np.uint8)


def _e4m3_table() -> NDArray[np.float32]:
    """The number behind each of the 256 patterns."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    normal = np.ldexp(1.0 + mantissa / 8.0, exponent - 7)
    magnitude = np.where(exponent == 0, mantissa / _E4M3_STEPS, normal)
    magnitude = np.where((code & 0x7F) == _E4M3_NAN, np.nan, magnitude)
    return np.where(code >= 128, -magnitude, magnitude).astype(np.float32)


_E4M3_VALUES = _e4m3_table()


def e4m3_values(bits: Array) -> NDArray[np.float32]:
    """The float32 values of e4m3 bits. Exact. Same shape."""
    return _E4M3_VALUES[np.asarray(bits, np.uint8)]


def encode(x: Array, dtype: DType) -> Array:
    """Numbers as stored in `dtype`; floats are rounded to nearest, ties to even."""
    if dtype == "bf16":
        return bfloat16_bits(x)
    if dtype == "f8":
        return e4m3_bits(x)
    return np.asarray(x).astype(STORAGE[dtype])


def decode(stored: Array, dtype: DType) -> Array:
    """Stored numbers as float64, integers as int64. Exact."""
    if dtype == "bf16":
        return bfloat16_values(stored).astype(np.float64)
    if dtype == "f8":
        return e4m3_values(stored).astype(np.float64)
    return stored.astype(np.float64 if dtype in ("f32", "f16") else np.int64)
