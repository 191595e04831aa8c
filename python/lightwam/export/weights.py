# SPDX-License-Identifier: Apache-2.0
"""Where a policy's weights come from while it is folded: a state dict, or random numbers made tensor by tensor.

Names are the published ones: `mot.mixtures.video.*`, `state_fusion_action_expert.*`, `proprio_encoder.*`, and for the
other networks `vae.model.*` and `text_encoder.*`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from lightwam.engine.dtypes import Shape
from lightwam.errors import ExportError
from lightwam.model.fit import FLOAT_DTYPES, is_finite

DIT = "mot.mixtures.video."
EXPERT = "state_fusion_action_expert."
PROPRIO = "proprio_encoder."
VAE = "vae.model."
TEXT = "text_encoder."


class Weights(Protocol):
    """Float64 tensors by published name."""

    def get(self, name: str, shape: Shape) -> Tensor:
        """The tensor, checked; it is the caller's own to change.

        Raises `ExportError` if it is missing, has another shape, is no float or holds NaN or infinity.
        """
        ...


class StateDictWeights:
    """Weights of a model in memory."""

    def __init__(self, state_dict: Mapping[str, Tensor]) -> None:
        self._tensors = state_dict

    def get(self, name: str, shape: Shape) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ExportError(f"weight {name} is missing: load a checkpoint that fits the configuration")
        if tuple(tensor.shape) != shape:
            raise ExportError(f"weight {name} has shape {list(tensor.shape)}, expected {list(shape)}: check the config")
        if tensor.is_meta:
            raise ExportError(f"weight {name} is on the meta device: such a model can be counted, not exported")
        if tensor.dtype not in FLOAT_DTYPES:
            raise ExportError(f"weight {name} has type {tensor.dtype}: load a checkpoint with floating-point weights")
        wide = tensor.detach().to("cpu", torch.float64, copy=True)
        if not is_finite(wide):
            raise ExportError(f"weight {name} holds NaN or infinity: the checkpoint is damaged")
        return wide


class RandomWeights:
    """Reproducible random weights of sane size: each tensor depends on the seed and its name only.

    Linears keep the variance of what they read; what adds to a residual stream is small, so that activations stay of
    order one over any number of blocks.
    """

    #: Parts of the names of linears whose output is added to a stream.
    RESIDUAL_OUTPUTS = ("self_attn.o.", "cross_attn.o.", "ffn.2.", "up_proj.", ".fc2.", ".residual.6.", ".proj.")

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def get(self, name: str, shape: Shape) -> Tensor:
        generator = torch.Generator().manual_seed((self._seed << 32) ^ zlib.crc32(name.encode()))
        noise = torch.randn(shape, generator=generator, dtype=torch.float32)
        return self._scaled(name, shape, noise).to(torch.float64)

    def _scaled(self, name: str, shape: Shape, noise: Tensor) -> Tensor:
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
            return 1.0 + 0.1 * noise
        if leaf in ("bias", "in_proj_bias"):
            return 0.02 * noise
        if leaf in ("query_merge_logits", "query_slot_merge_logits", "position"):
            return noise / math.sqrt(shape[-1])
        if leaf in ("query_tokens", "embedding"):
            return noise
        if leaf == "modulation":
            return 0.5 * noise
        fan_in = math.prod(shape[1:])
        if len(shape) == 5:
            fan_in //= shape[2]  # a single frame meets the last temporal tap only
        gain = 0.3 if any(part in name for part in self.RESIDUAL_OUTPUTS) else 1.0
        return gain * noise / math.sqrt(fan_in)
