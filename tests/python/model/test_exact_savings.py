# SPDX-License-Identifier: Apache-2.0
"""The exact savings of a training step: the plain step's losses and gradients, with fewer FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.model_golden import relative_error
from helpers.model_tiny import build, tiny
from helpers.robots import numbered, with_robot
from lightwam.config import ActionExpertConfig, AdapterConfig, LightWAMConfig, LoRAConfig, TemporalWeighting
from lightwam.errors import DataError
from lightwam.model import LightWAM
from lightwam.model.context import merge_equal_rows

TEXT_ROWS = (2, 5, 9)
CONTEXT_ROWS = 11
TOLERANCE = 1e-12


def policy(config: LightWAMConfig) -> LightWAM:
    """In float64, every parameter random; each attention's size chosen so that its keys are few or many."""
    return build(config).double().train()


def window(model: LightWAM, rows: tuple[int, ...] = TEXT_ROWS, length: int = CONTEXT_ROWS) -> dict[str, Tensor]:
    """A batch of texts of different lengths, zero rows behind them, with padded frames and actions."""
    generator = torch.Generator().manual_seed(3)
    samples, config = len(rows), model.config
    frames = 3 * (config.vae.temporal_factor == 4) + 0 or 3

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    context = randn(samples, length, config.video_dit.text_dim)
    image_is_pad = torch.zeros(samples, 1 + (frames - 1) * config.vae.temporal_factor, dtype=torch.bool)
    action_is_pad = torch.zeros(samples, config.horizon, dtype=torch.bool)
    for i, text in enumerate(rows):
        context[i, text:] = 0
    image_is_pad[-1, 5:] = True
    action_is_pad[-1, 5:] = True
    return {
        "video_latents": randn(samples, 16, frames, 4, 8),
        "action": randn(samples, config.horizon, config.action_dim),
        "proprio": randn(samples, config.state_dim),
        "context": context,
        "context_mask": torch.ones(samples, length, dtype=torch.bool),
        "image_is_pad": image_is_pad,
        "action_is_pad": action_is_pad,
    }


def losses_and_gradients(
    model: LightWAM, batch: Mapping[str, Tensor], exact_savings: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    shape = model.downsample(batch["video_latents"]).shape
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    timestep = 1000 * torch.rand(len(shape[:1] and batch["action"]), generator=generator, dtype=torch.float64)
    model.zero_grad(set_to_none=True)
    losses = model.training_losses(batch, noise, timestep, exact_savings=exact_savings)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check(model: LightWAM, batch: Mapping[str, Tensor], plain_batch: Mapping[str, Tensor] | None = None) -> None:
    losses, gradients = losses_and_gradients(model, batch, exact_savings=True)
    plain_losses, plain_gradients = losses_and_gradients(model, plain_batch or batch, exact_savings=False)
    for name, value in plain_losses.items():
        assert value.dtype == torch.float64
        assert losses[name].item() == pytest.approx(value.item(), rel=TOLERANCE), name
    assert set(gradients) == set(plain_gradients) == {n for n, p in model.named_parameters() if p.requires_grad}
    for name, gradient in plain_gradients.items():
        assert relative_error(gradients[name], gradient) < TOLERANCE, name


ALL = ("backbone", "adapted", "delta")


@pytest.mark.parametrize("method", ["sdpa", "softmax", "kernels"])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="downsampled-2"),
        pytest.param({"video": {"spatial_downsample": 1}}, id="downsampled-1"),
        pytest.param({"video": {"downsample_action_pass": True}}, id="small-action-pass"),
        pytest.param({"video_dit": {"train_backbone": True}}, id="whole-backbone"),
        pytest.param({"video_dit": {"attention_mask": "per_frame_causal"}}, id="per-frame"),
        pytest.param({"video_dit": {"attention_mask": "bidirectional", "lora": None}}, id="bidirectional-no-lora"),
        pytest.param({"video_dit": {"adapters": AdapterConfig(layers=(1, 3), dim=8)}}, id="adapter-at-the-end"),
        pytest.param({"video_dit": {"lora": LoRAConfig(layers=(0, 1, 2, 3), rank=3)}}, id="lora-everywhere"),
        pytest.param({"loss": {"temporal_weighting": TemporalWeighting(3, 1.0, 0.0)}}, id="prefix"),
        pytest.param({"loss": {"temporal_weighting": TemporalWeighting(3, 1.0, 0.5)}}, id="prefix-and-tail"),
        pytest.param({"action_expert": {"sources": ALL}}, id="all-sources"),
        pytest.param({"action_expert": {"layer_sources": (("delta",), ("backbone",))}}, id="sources-by-layer"),
        pytest.param({"action_expert": {"merge_dim": 20, "merge_slots": 3}}, id="merged-slots"),
        pytest.param({"action_expert": {"pooling": "mean", "sources": ALL}}, id="mean"),
    ],
)
def test_losses_and_every_gradient_are_the_plain_ones(changes: dict[str, dict[str, Any]], method: Any) -> None:
    config = tiny()
    changed = {part: replace(getattr(config, part), **values) for part, values in changes.items()}
    model = policy(replace(config, **changed)).set_attention(method)
    check(model, window(model))
