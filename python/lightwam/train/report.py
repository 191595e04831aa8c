# SPDX-License-Identifier: Apache-2.0
"""What a run consists of: parameters and the memory that they, their gradients and the optimizer take."""

from __future__ import annotations

from typing import Any

from torch import nn

from lightwam.train.step import TrainStep


def report_parameters(networks: nn.Module, step: TrainStep) -> dict[str, Any]:
    """Parameters by part and by type, and bytes of weights, masters, gradients and AdamW's two moments."""
    parts: dict[str, dict[str, int]] = {}
    for name, parameter in networks.named_parameters():
        counted = parts.setdefault(".".join(name.split(".")[:2]), {"trained": 0, "frozen": 0})
        counted["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
    weights = sum(parameter.nbytes for parameter in networks.parameters())
    separate = sum(m.nbytes for m, p in zip(step.masters, step.parameters, strict=True) if m is not p)
    trained = sum(master.nbytes for master in step.masters)
    memory = {
        "weights": weights, "masters": separate, "gradients": trained, "optimizer": 2 * trained,
        "average": trained if step.average is not None else 0,
    }  # fmt: skip
    return {
        "trained_parameters": sum(parameter.numel() for parameter in step.parameters),
        "parameters": sum(parameter.numel() for parameter in networks.parameters()),
        "parts": parts,
        "bytes": {**memory, "all": sum(memory.values())},
    }
