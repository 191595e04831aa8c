# SPDX-License-Identifier: Apache-2.0
"""Loading of the golden files, and the one definition of relative error that the tests use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[2] / "data" / "golden"


def load_tensors(name: str) -> dict[str, Tensor]:
    """A golden safetensors file; half-width weights are widened to float32 (exact)."""
    tensors = load_file(FOLDER / f"{name}.safetensors")
    return {k: v.float() if v.dtype in (torch.bfloat16, torch.float16) else v for k, v in tensors.items()}


def load_json(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """max |actual - expected| / max |expected|."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} != {tuple(expected.shape)}"
    return ((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()
