# SPDX-License-Identifier: Apache-2.0
"""Losses and gradients of the model: their parts, padding, bf16, and batches that do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.model_tiny import build, example_batch, tiny
from lightwam.config import LightWAMConfig
from lightwam.errors import DataError
from lightwam.model import LightWAM
from lightwam.model.losses import action_loss


def test_frozen_backbone_gets_no_gradient_and_the_rest_does() -> None:
    model = build(tiny())
    model.training_losses(example_batch(model))["loss"].backward()  # type: ignore[no-untyped-call]
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learned == {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("blocks" in name for name in learned)
    assert all("lora" in name for name in learned if ".blocks." in name)


def test_nano_trains_whole() -> None:
    model = LightWAM(LightWAMConfig.nano())
    assert all(p.requires_grad for p in model.parameters())
    assert sum(p.numel() for p in model.parameters()) < 12_000_000


def test_losses_are_the_sum_of_their_weighted_parts() -> None:
    model = build(replace(tiny(), loss=replace(tiny().loss, lambda_video=1.0, lambda_action=1.0)))
    loss = replace(model.config.loss, lambda_video=0.5, lambda_action=3.0)
    heavy = LightWAM(replace(model.config, loss=loss))
    heavy.load_state_dict(model.state_dict())
    batch = example_batch(model)
    noise, timestep = torch.randn(2, 16, 2, 2, 4), torch.tensor([300.0, 800.0])
    light, weighted = (m.training_losses(batch, noise=noise, timestep=timestep) for m in (model, heavy))
    torch.testing.assert_close(weighted["loss_video"], 0.5 * light["loss_video"])
    torch.testing.assert_close(weighted["loss_action"], 3.0 * light["loss_action"])
    torch.testing.assert_close(weighted["loss"], weighted["loss_video"] + weighted["loss_action"])


def test_padding_everything_costs_nothing() -> None:
    model = build(tiny())
    batch = example_batch(model)
    batch["image_is_pad"][:, 1:] = True
    batch["action_is_pad"][:] = True
    assert model.training_losses(batch)["loss"].item() == 0.0


def test_partly_padded_latents_count() -> None:
    """A latent is padding only if all four of its frames are."""
    model = build(tiny())
    batch = example_batch(model)
    noise, timestep = torch.randn(2, 16, 2, 2, 4), torch.tensor([300.0, 800.0])
    whole = model.video_loss(batch, noise, timestep)
    batch["image_is_pad"][:, 2:] = True
    torch.testing.assert_close(model.video_loss(batch, noise, timestep), whole)


def test_action_loss_ignores_padded_steps() -> None:
    actions, target = torch.zeros(1, 4, 2), torch.tensor([[[1.0, 1], [2, 2], [9, 9], [9, 9]]])
    pad = torch.tensor([[False, False, True, True]])
    assert action_loss(actions, target, pad, None).item() == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("action", torch.zeros(2, 8, 14), r"action has shape \(2, 8, 14\)"),
        ("action_is_pad", torch.zeros(2, 16), "action_is_pad is torch.float32"),
        ("image_is_pad", torch.zeros(2, 4, dtype=torch.bool), "image_is_pad"),
        ("image_is_pad", torch.zeros(2, 9, dtype=torch.bool), "image_is_pad marks"),
        ("proprio", None, r"batch lacks \['proprio'\]"),
    ],
)
def test_bad_batches(key: str, value: Tensor | None, named: str) -> None:
    model = build(tiny())
    batch = example_batch(model)
    if value is None:
        del batch[key]
    else:
        batch[key] = value
    with pytest.raises(DataError, match=named):
        model.training_losses(batch)


@pytest.mark.parametrize("method", ["sdpa", "softmax", "kernels"])
def test_trains_under_bf16_autocast(method: Any) -> None:
    model = build(tiny()).set_attention(method)
    batch, noise, timestep = example_batch(model), torch.randn(2, 16, 2, 2, 4), torch.tensor([300.0, 800.0])
    exact = model.training_losses(batch, noise=noise, timestep=timestep)["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.training_losses(batch, noise=noise, timestep=timestep)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
