# SPDX-License-Identifier: Apache-2.0
"""Small policies for the export tests: the golden ones, and random ones of any configuration."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightwam.config import LightWAMConfig
from lightwam.export.weights import RandomWeights
from lightwam.model import LightWAM

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
_NOT_WEIGHTS = ("grad", "in", "out", "train")


@dataclass(frozen=True)
class GoldenPolicy:
    """A published tiny policy: its model, and the tensors `in.*` and `out.*`."""

    name: str
    model: LightWAM
    tensors: dict[str, Tensor]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        channels, _, height, width = self.tensors["in.latents"].shape[1:]
        return channels, height, width

    @property
    def context_rows(self) -> int:
        return self.tensors["in.context"].shape[1]


@functools.cache
def golden_policy(name: str) -> GoldenPolicy:
    """The policy, read once: leave it as it is."""
    mapping: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    model = LightWAM(LightWAMConfig.from_published(mapping))
    model.load_published({k: v for k, v in tensors.items() if k.split(".")[0] not in _NOT_WEIGHTS})
    return GoldenPolicy(name, model, tensors)


def randomize(module: nn.Module, prefix: str = "", seed: int = 0) -> None:
    """Random weights with nothing at its trivial value: adapters, LoRA and modulation included."""
    weights = RandomWeights(seed)
    with torch.no_grad():
        for name, parameter in module.state_dict().items():
            parameter.copy_(weights.get(prefix + name, tuple(parameter.shape)))


def tiny_config() -> LightWAMConfig:
    """Golden set 1's sizes: 6 blocks of width 72, 3 heads of 24, LoRA on everything, adapters after 1, 3, 4."""
    return LightWAMConfig.from_published(json.loads((GOLDEN / "golden_set1.json").read_text()))


def random_model(config: LightWAMConfig, seed: int = 0) -> LightWAM:
    model = LightWAM(config)
    randomize(model, seed=seed)
    return model
