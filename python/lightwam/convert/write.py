# SPDX-License-Identifier: Apache-2.0
"""Writes a safetensors file tensor by tensor: memory-mapped inputs pass through, no second copy of them is made."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lightwam.errors import CheckpointError

# In the order in which the safetensors library lays tensors out: wide types first, so that each is aligned.
_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ALIGNMENT = 8


def write_safetensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    dtype: torch.dtype | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> int:
    """Write floating-point tensors; the bytes are those that the safetensors library would write.

    Args:
        tensors: name -> tensor of any layout; each is read once, in the order of the file.
        path: the file; callers write to a temporary name.
        dtype: converts every tensor; None keeps each as it is.
        on_bytes: hears of the bytes written after each tensor.

    Returns:
        The size of the file in bytes.

    Raises:
        CheckpointError: a name that the format reserves, or a type other than the four above.
    """
    formats = {name: dtype or tensor.dtype for name, tensor in tensors.items()}
    for name, kind in formats.items():
        if name == "__metadata__" or kind not in _NAMES:
            raise CheckpointError(f"tensor {name!r} of type {kind} cannot be stored: rename it, or convert it to float")
    widest_first = list(_NAMES)
    order = sorted(tensors, key=lambda name: (widest_first.index(formats[name]), name))
    header: dict[str, object] = {}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].numel() * formats[name].itemsize
        header[name] = {
            "dtype": _NAMES[formats[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name in order:
            written = file.write(_bytes(tensors[name].detach().to("cpu", formats[name])))
            if on_bytes is not None:
                on_bytes(written)
    return 8 + len(text) + end


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
