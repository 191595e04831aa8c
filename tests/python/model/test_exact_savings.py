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
from lightwam.config import AdapterConfig, LightWAMConfig, LoRAConfig
from lightwam.config.networks import FeatureSource
from lightwam.config.objectives import TemporalWeighting
from lightwam.errors import ConfigError
from lightwam.model import LightWAM
from lightwam.model.context import merge_equal_rows

TEXT_ROWS = (2, 5, 9)
FEW_ROWS, MANY_ROWS = 11, 40
"""Context rows in all. The values of 11 keys are projected before the sum; `MANY_TEXTS` leave too many for that."""
MANY_TEXTS = (3, 40, 30)
TOLERANCE = 1e-12
ALL: tuple[FeatureSource, ...] = ("backbone", "adapted", "delta")


def policy(config: LightWAMConfig) -> LightWAM:
    """In float64, every parameter random."""
    return build(config).double().train()


def window(model: LightWAM, text_rows: tuple[int, ...] = TEXT_ROWS, length: int = FEW_ROWS) -> dict[str, Tensor]:
    """Texts of different lengths with zero rows behind them; the last sample has padded frames and actions."""
    generator = torch.Generator().manual_seed(3)
    samples, frames, config = len(text_rows), 3, model.config

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    context = randn(samples, length, config.video_dit.text_dim)
    for sample, rows in zip(context, text_rows, strict=True):
        sample[rows:] = 0
    image_is_pad = torch.zeros(samples, 1 + (frames - 1) * config.vae.temporal_factor, dtype=torch.bool)
    action_is_pad = torch.zeros(samples, config.horizon, dtype=torch.bool)
    image_is_pad[-1, 5:] = True
    action_is_pad[-1, 2:] = True
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
    noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(batch["action"].dtype)
    timestep = 1000 * torch.rand(shape[0], generator=generator, dtype=torch.float64)
    model.zero_grad(set_to_none=True)
    losses = model.training_losses(batch, noise, timestep, exact_savings=exact_savings)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def difference(model: LightWAM, batch: Mapping[str, Tensor], plain_batch: Mapping[str, Tensor]) -> float:
    """The largest relative error of a loss or a gradient against the plain step's."""
    losses, gradients = losses_and_gradients(model, batch, exact_savings=True)
    plain_losses, plain_gradients = losses_and_gradients(model, plain_batch, exact_savings=False)
    assert all(value.dtype == torch.float64 for value in (*losses.values(), *plain_losses.values()))
    assert set(gradients) == set(plain_gradients) == {n for n, p in model.named_parameters() if p.requires_grad}
    pairs = [(losses[name], value) for name, value in plain_losses.items()]
    pairs += [(gradients[name], value) for name, value in plain_gradients.items()]
    return max(relative_error(actual, expected) for actual, expected in pairs)


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
    assert difference(model, window(model), window(model)) < TOLERANCE


@pytest.mark.parametrize("method", ["sdpa", "softmax", "kernels"])
def test_too_many_keys_to_project_their_values(method: Any) -> None:
    model = policy(tiny()).set_attention(method)
    batch = window(model, MANY_TEXTS, MANY_ROWS)
    assert difference(model, batch, batch) < TOLERANCE


def test_rows_merged_by_the_data_loader() -> None:
    """Counts in the batch: nothing is compared any more, and the plain step takes them too."""
    model = policy(tiny())
    batch = window(model)
    context, counts = merge_equal_rows(batch["context"], batch["context_mask"])
    merged = {**batch, "context": context, "context_mask": counts}
    assert context.shape[1] == max(TEXT_ROWS) + 1
    assert difference(model, merged, batch) < TOLERANCE
    assert difference(model, batch, merged) < TOLERANCE
    once = {**merged, "context_mask": counts.clamp_max(1)}
    assert difference(model, once, batch) > 1e-4  # the zero rows do count


def test_masked_rows_stay_masked() -> None:
    """Rows that may not be seen, at the end and in the middle."""
    model = policy(tiny())
    batch = window(model)
    batch["context_mask"][0, 3:] = False
    batch["context_mask"][1, 1:3] = False
    assert difference(model, batch, batch) < TOLERANCE


def test_a_batch_without_noise_draws_the_same() -> None:
    model = policy(tiny())
    results = []
    for exact_savings in (True, False):
        torch.manual_seed(7)
        results.append(model.training_losses(window(model), exact_savings=exact_savings)["loss"].item())
    assert results[0] == pytest.approx(results[1], rel=1e-12)


def test_lora_dropout_draws_a_mask_for_every_row_and_pass() -> None:
    """Nothing can be shared then: the step is the plain one. Without dropout's masks (eval) the savings are exact."""
    config = tiny()
    lora = replace(config.video_dit.lora or LoRAConfig(layers=(0,)), dropout=0.5)
    model = policy(replace(config, video_dit=replace(config.video_dit, lora=lora)))
    batch, results = window(model), []
    for exact_savings in (True, False):
        torch.manual_seed(7)
        results.append(losses_and_gradients(model, batch, exact_savings)[1])
    assert all(torch.equal(results[0][name], gradient) for name, gradient in results[1].items())
    assert 0 < difference(model.eval(), batch, batch) < TOLERANCE


@pytest.mark.parametrize("method", ["sdpa", "softmax", "kernels"])
def test_runs_with_bf16_weights(method: Any) -> None:
    """As far from float64 as the plain step is, about."""
    model = policy(tiny()).set_attention(method)
    batch = window(model)
    exact = losses_and_gradients(model, batch, exact_savings=False)[0]["loss"].item()
    model.bfloat16()
    narrow = {name: x.bfloat16() if x.is_floating_point() else x for name, x in batch.items()}
    for exact_savings in (True, False):
        losses, gradients = losses_and_gradients(model, narrow, exact_savings)
        assert losses["loss"].dtype == torch.float32 and losses["loss"].item() == pytest.approx(exact, rel=0.02)
        assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())


# Equal rows ----------------------------------------------------------------------------------------------------------


def test_equal_rows_are_counted() -> None:
    rows = torch.arange(1, 6).float().repeat(3, 1)
    rows[0, 2:], rows[1, 3:], rows[2, 0] = 0, 9, 0
    context, counts = merge_equal_rows(rows[..., None], torch.ones(3, 5, dtype=torch.bool))
    assert counts.tolist() == [[1, 1, 3, 0, 0], [1, 1, 1, 2, 0], [1, 1, 1, 1, 1]]
    assert torch.equal(context, rows[..., None])
    context, counts = merge_equal_rows(rows[:2, :, None], torch.ones(2, 5, dtype=torch.bool))
    assert counts.tolist() == [[1, 1, 3, 0], [1, 1, 1, 2]] and context.shape == (2, 4, 1)


def test_equal_rows_are_one_only_if_seen_alike() -> None:
    context, mask = torch.zeros(2, 4, 3), torch.tensor([[True, True, False, False], [True] * 4])
    _, counts = merge_equal_rows(context, mask)
    assert counts.tolist() == [[1, 1, 0], [4, 0, 0]]


def test_rows_that_learn_are_left_alone() -> None:
    context, mask = torch.zeros(1, 4, 3, requires_grad=True), torch.ones(1, 4, dtype=torch.bool)
    assert merge_equal_rows(context, mask) == (context, mask)


def test_counts_of_another_type_are_refused() -> None:
    model = build(tiny())
    batch = {name: x.float() if x.is_floating_point() else x for name, x in window(model).items()}
    with pytest.raises(ConfigError, match=r"context mask is torch.int32 .*: give booleans, or counts in int64"):
        model.training_losses({**batch, "context_mask": batch["context_mask"].int()})
