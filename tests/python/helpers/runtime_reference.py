# SPDX-License-Identifier: Apache-2.0
"""The small engine of engine_files.py in NumPy and float64, written from docs/reference/engine-format.md."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from helpers.engine_files import ACTION_WIDTH, CONTEXT_ROWS, HORIZON, TEXT_WIDTH, WIDTH, Engine, as_float

Array = NDArray[np.float64]


def resize_matrix(size_in: int, size_out: int) -> Array:
    """[out, in]: antialiased triangle filter, half-pixel centres, rows sum to one."""
    scale = size_in / size_out
    support = max(1.0, scale)
    centres = (np.arange(size_out) + 0.5) * scale
    distance = np.abs(np.arange(size_in)[None, :] + 0.5 - centres[:, None]) / support
    weights: Array = np.maximum(0.0, 1.0 - distance)
    return weights / weights.sum(axis=1, keepdims=True)


def canvas(images: dict[str, NDArray[np.uint8]], cameras: list[dict[str, Any]], size: list[int]) -> Array:
    result = np.full((*size, 3), np.nan)
    for camera in cameras:
        top, left, height, width = camera["rect"]
        image = images[camera["name"]].astype(np.float64) / 255.0
        if camera["rotate_180"]:
            image = image[::-1, ::-1]
        rows, columns = resize_matrix(image.shape[0], height), resize_matrix(image.shape[1], width)
        resized = np.einsum("oi,ijc->ojc", rows, np.einsum("pj,ijc->ipc", columns, image))
        result[top : top + height, left : left + width] = (resized - 0.5) / 0.5
    return result


def fnv1a(word: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in word:
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


def hashed_rows(text: str, tensors: dict[str, Array]) -> Array:
    words, word = [], b""
    for byte in text.encode() + b" ":
        letter = bytes([byte]).lower() if byte < 0x80 else bytes([byte])
        if letter.isalnum() or byte >= 0x80:
            word += letter
        elif word:
            words.append(word)
            word = b""
    table, positions = tensors["text.embedding"], tensors["text.position"]
    return np.stack([table[fnv1a(word) % len(table)] + positions[i] for i, word in enumerate(words)])


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def convolve(x: Array, weight: Array, bias: Array) -> Array:
    """Stride 2, one zero row below and one zero column to the right, SiLU."""
    padded = np.pad(x, ((0, 1), (0, 1), (0, 0)))
    out = np.empty((4, 8, WIDTH))
    for row in range(4):
        for column in range(8):
            window = padded[2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            out[row, column] = np.einsum("khwc,hwc->k", weight, window) + bias
    return out / (1.0 + np.exp(-out))


def attention(query: Array, key: Array, value: Array, bias: Array) -> Array:
    out = np.empty_like(query)
    for head in range(2):
        part = slice(head * WIDTH // 2, (head + 1) * WIDTH // 2)
        logits = 0.5 * query[:, part] @ key[:, part].T + bias
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        out[:, part] = weights / weights.sum(axis=1, keepdims=True) @ value[:, part]
    return out


def quantised_rows(x: Array) -> tuple[Array, Array]:
    """What 8 bits keep of every row (engine-format.md, section 4.1): whole numbers, and their scales [R, 1]."""
    low = np.minimum(x.min(axis=1, keepdims=True), 0.0)
    high = np.maximum(x.max(axis=1, keepdims=True), 0.0)
    scale = (high - low) / 255.0
    scale[scale < 2.0**-126] = 1.0
    zero = np.clip(np.rint(-128.0 - low / scale), -128, 127)
    return np.clip(np.rint(x / scale) + zero, -128, 127) - zero, scale


def e4m3_rows(x: Array) -> tuple[Array, Array]:
    """Likewise for 8-bit floats, rounded by torch."""
    largest = np.abs(x).max(axis=1, keepdims=True)
    scale = np.where(largest / 448.0 < 2.0**-126, 1.0, largest / 448.0)
    held = torch.from_numpy(np.clip(x / scale, -448, 448)).to(torch.float8_e4m3fn)
    return held.double().numpy(), scale


def linear(engine: Engine, name: str, x: Array) -> Array:
    """x W^T of the op `name`, without bias."""
    constants = engine.op(name)["constants"]
    weight = engine.tensors[constants["weight"]]
    if weight.dtype not in (np.int8, np.uint8):
        return x @ as_float(weight).T
    if weight.dtype == np.int8:
        held, scale = quantised_rows(x)
        numbers = weight.astype(np.float64)
    else:
        held, scale = e4m3_rows(x)
        numbers = torch.from_numpy(weight.copy()).view(torch.float8_e4m3fn).double().numpy()
    return held @ numbers.T * scale * as_float(engine.tensors[constants["weight_scale"]])


def actions(engine: Engine, observation: dict[str, Any], text: str) -> Array:
    """[H, A] as the runtime must compute them."""
    tensors = {name: as_float(tensor) for name, tensor in engine.tensors.items()}
    policy = engine.document["policy"]
    known = {entry["text"]: tensors[entry["context"]] for entry in policy["instructions"]}
    rows = known[text] if text in known else hashed_rows(text, tensors)
    context = np.zeros((CONTEXT_ROWS, TEXT_WIDTH))
    context[: len(rows)] = rows
    bias = np.zeros(CONTEXT_ROWS)  # every padded row is a key of its own here: no folding
    if policy["starts_at"] == "images":
        x = canvas(observation["images"], policy["cameras"], policy["canvas"])
    else:
        x = observation["latents"].astype(np.float64).transpose(1, 2, 0)
    tokens = convolve(x, tensors["conv.weight"], tensors["conv.bias"]).reshape(32, WIDTH)
    normed = tokens / np.sqrt((tokens**2).mean(axis=1, keepdims=True) + 1e-6) * tensors["norm.weight"]
    query = gelu_tanh(linear(engine, "query", normed))
    attended = attention(query, context @ tensors["key.weight"].T, context @ tensors["value.weight"].T, bias)
    state = observation["state"].astype(np.float64)
    fused = attended.mean(axis=0) + linear(engine, "state", state[None])[0] + tensors["state.bias"]
    chunk = (fused @ tensors["action.weight"].T + tensors["action.bias"]).reshape(HORIZON, ACTION_WIDTH)
    result: Array = np.minimum(chunk * tensors["action.scale"] + tensors["action.shift"], 2.5)
    result[:, 2] = np.sign(-(2.0 * result[:, 2] - 1.0))
    return result
