# SPDX-License-Identifier: Apache-2.0
"""device.py in NumPy and float64, for the references of kernels."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from lightwam.kernels.formats import E4M3_LARGEST, Array, e4m3_bits, e4m3_values

Activation = Literal["none", "silu", "gelu", "gelu_tanh"]
Statistics = Literal["moments", "squares", "range"]
ACTIVATIONS: tuple[Activation, ...] = ("none", "silu", "gelu", "gelu_tanh")
STATISTICS: tuple[Statistics, ...] = ("moments", "squares", "range")
STATISTICS_WIDTH = 64  # columns of one pair of partial row statistics


def partials(columns: int) -> int:
    """How many pairs of partial statistics a row of `columns` has."""
    return -(-columns // STATISTICS_WIDTH)


def activate(x: Array, activation: str) -> Array:
    """`activation` of docs/reference/engine-format.md, section 4; same shape."""
    if activation == "silu":
        return x / (1.0 + np.exp(-x))
    if activation == "gelu":
        return x * 0.5 * (1.0 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2.0)))
    if activation == "gelu_tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    if activation != "none":
        raise ValueError(f"activation is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}")
    return x


def layer_norm(x: Array, eps: float) -> Array:
    """Rows [..., C] without their mean, divided by sqrt(variance + eps)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    normalised: Array = centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + eps)
    return normalised


def row_statistics(y: Array, kind: str) -> Array:
    """Partial statistics of y [R, C]: [R, ceil(C / 64), 2] (docs/reference/launch-plan.md, Row statistics)."""
    pairs = []
    for start in range(0, y.shape[1], STATISTICS_WIDTH):
        part = y[:, start : start + STATISTICS_WIDTH]
        if kind == "moments":
            mean = part.mean(axis=1)
            pairs.append((mean, np.sum((part - mean[:, None]) ** 2, axis=1)))
        elif kind == "squares":
            pairs.append((np.sum(part * part, axis=1), np.zeros(len(part))))
        elif kind == "range":
            pairs.append((part.min(axis=1), part.max(axis=1)))
        else:
            raise ValueError(f"statistics are {kind!r}; they must be one of {', '.join(STATISTICS)}")
    return np.array(pairs).transpose(2, 0, 1)


def moments_of(statistics: Array, columns: int) -> tuple[Array, Array]:
    """(mean, variance) [R] of rows of `columns` from their `moments` [R, P, 2]."""
    counts = np.minimum(STATISTICS_WIDTH, columns - STATISTICS_WIDTH * np.arange(statistics.shape[1]))
    mean = (statistics[:, :, 0] * counts).sum(axis=1) / columns
    offset = statistics[:, :, 0] - mean[:, None]
    return mean, (statistics[:, :, 1] + counts * offset * offset).sum(axis=1) / columns


def eight_bit_scale(low: Array, high: Array) -> tuple[Array, Array]:
    """(scale, zero) of rows from their smallest and largest values (docs/reference/engine-format.md, section 4.1)."""
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    scale = (high - low) / 255.0
    scale = np.where(scale < 2.0**-126, 1.0, scale)
    return scale, np.clip(np.rint(-128.0 - low / scale), -128.0, 127.0)


def round_to_eight_bits(x: Array, scale: Array, zero: Array) -> Array:
    """Integers in [-128, 127], as float64: x [..., K], scale and zero [...]."""
    return np.clip(np.rint(x / scale[..., None]) + zero[..., None], -128.0, 127.0)


def e4m3_scale(low: Array, high: Array) -> Array:
    """Scale of rows for e4m3 from their smallest and largest values (docs/reference/engine-format.md, section 4.1)."""
    scale = np.maximum(np.maximum(-low, high), 0.0) / E4M3_LARGEST
    return np.where(scale < 2.0**-126, 1.0, scale)


def round_to_e4m3(x: Array, scale: Array) -> Array:
    """Numbers of e4m3, as float64: x [..., K] / scale [...], rounded."""
    return e4m3_values(e4m3_bits(x / scale[..., None])).astype(np.float64)
