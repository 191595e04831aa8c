# SPDX-License-Identifier: Apache-2.0
"""One optimizer step, held against the published trainer's own 20 steps (tests/data/golden/golden_training)."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.golden import golden_policy
from helpers.model_golden import load_json, load_tensors
from lightwam.errors import ConfigError, DataError, LightWAMError, TrainingError
from lightwam.model import LightWAM
from lightwam.train import PublishedSchedule, TrainStep

OPTIONS: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 0.01, "warmup_steps": 5, "max_steps": 20}


@functools.cache
def trace() -> tuple[dict[str, Any], dict[str, Tensor]]:
    return load_json("golden_training"), load_tensors("golden_training")


def new_policy() -> LightWAM:
    """Golden set 1: the weights that the trace starts from."""
    return copy.deepcopy(golden_policy("golden_set1").model).float()


def micro_batch(step: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Batch, noise and timestep of a step of the trace."""
    tensors = trace()[1]
    names = ("video_latents", "action", "proprio", "context", "context_mask", "image_is_pad", "action_is_pad")
    batch = {name: tensors[f"batch.{name}"][step] for name in names}
    return batch, tensors["batch.noise"][step], tensors["batch.timestep"][step]


def run_trace(max_grad_norm: float | None) -> tuple[LightWAM, list[dict[str, float]], dict[int, dict[str, Tensor]]]:
    """The model after 20 steps, each step's figures, and the trained tensors after steps 1, 2, 10 and 20."""
    model = new_policy()
    train, figures, states = TrainStep(model, max_grad_norm=max_grad_norm, **OPTIONS), [], {}
    for step in range(20):
        batch, noise, timestep = micro_batch(step)
        figures.append(train.step([batch], [noise], [timestep]))
        if step + 1 in (1, 2, 10, 20):
            states[step + 1] = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    return model, figures, states


@functools.cache
def clipped() -> tuple[LightWAM, list[dict[str, float]], dict[int, dict[str, Tensor]]]:
    return run_trace(1.0)


def test_the_published_parameters_train() -> None:
    trained = {name for name, parameter in new_policy().named_parameters() if parameter.requires_grad}
    assert trained == set(trace()[0]["trainable"])


def test_losses_norms_and_rates_are_the_published_ones() -> None:
    for ours, theirs in zip(clipped()[1], trace()[0]["steps"], strict=True):
        (losses,) = theirs["micro_batches"]
        assert ours["lr"] == pytest.approx(theirs["lr"], rel=1e-9)
        assert ours["loss"] == pytest.approx(losses["total"], rel=1e-5)
        assert ours["loss_video"] == pytest.approx(losses["video"], rel=1e-5)
        assert ours["loss_action"] == pytest.approx(losses["action"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm_before_clip"], rel=1e-4)


def test_weights_move_as_published() -> None:
    """Apart by at most 8 times what a relative change of 1e-7 in the start did to the published run."""
    document, tensors = trace()
    guide = document["tolerance_guide"]["per_tensor"]
    start = dict(new_policy().named_parameters())
    compared = 0
    for step, state in clipped()[2].items():
        for name, ours in state.items():
            expected = tensors.get(f"step{step}.{name}")
            if expected is None:
                continue
            parts = {"": (ours, expected, guide[name]["rounding_spread"])}
            if "by_part" in guide[name]:  # the bias of the keys has no gradient but rounding
                by_part = guide[name]["by_part"]
                chunks = zip("qkv", ours.chunk(3), expected.chunk(3), strict=True)
                parts = {p: (o, e, by_part[p]["rounding_spread"]) for p, o, e in chunks if p != "k"}
            for part, (actual, wanted, spread) in parts.items():
                error = (actual - wanted).norm().item()
                assert error <= 8 * spread, (step, name, part, error, spread)
                compared += 1
            assert not torch.equal(ours, start[name]), f"{name} did not move"
    assert compared > 250


def test_large_tensors_move_as_published() -> None:
    document = trace()[0]
    for step, digests in document["digest"].items():
        for name, digest in digests.items():
            if name in document["tolerance_guide"]["per_tensor"] and "in_proj_bias" in name:
                continue  # compared by part above
            ours = clipped()[2][int(step)][name]
            assert ours.norm().item() == pytest.approx(digest["l2"], rel=2e-6), (step, name)
            first = ours.flatten()[:16]
            error = (first - torch.tensor(digest["first16"])).abs().max().item()
            assert error <= 4e-6, (step, name, error)


def test_without_clipping_the_losses_are_the_shipped_launchs() -> None:
    losses = [figures["loss"] for figures in run_trace(None)[1]]
    assert losses == pytest.approx(trace()[0]["without_clipping"]["losses"], rel=1e-5)


def test_micro_batches_count_the_same() -> None:
    """Two micro-batches: the figures are means, the gradient that of the mean loss."""
    batches = [micro_batch(step) for step in range(2)]
    model = new_policy()
    losses = [model.training_losses(b, noise=n, timestep=t) for b, n, t in batches]
    mean = sum((each["loss"] for each in losses), torch.zeros(())) / 2
    mean.backward()  # type: ignore[no-untyped-call]
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()

    train = TrainStep(new_policy(), max_grad_norm=1.0, **OPTIONS)
    figures = train.step(*zip(*batches, strict=True))  # type: ignore[arg-type]
    assert figures["loss"] == pytest.approx(mean.item(), rel=1e-6)
    assert figures["loss_video"] == pytest.approx(
        sum(float(each["loss_video"].detach()) for each in losses) / 2, rel=1e-6
    )
    assert figures["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert train.step_count == 1


def test_frozen_parameters_stay() -> None:
    before, after = dict(new_policy().named_parameters()), dict(clipped()[0].named_parameters())
    frozen = [name for name, parameter in after.items() if not parameter.requires_grad]
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    model = new_policy()
    train = TrainStep(model, max_grad_norm=1.0, **OPTIONS)
    batch, noise, timestep = micro_batch(0)
    train.step([batch], [noise], [timestep])
    before = copy.deepcopy(model.state_dict())
    damaged = {**batch, "action": batch["action"].clone().fill_(math.nan)}
    with pytest.raises(TrainingError, match=r"step 1: loss is nan: .*no weight was changed"):
        train.step([batch, damaged], [noise, noise], [timestep, timestep])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert train.step_count == 1
    assert train.step([batch], [noise], [timestep])["lr"] == pytest.approx(0.00036)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"learning_rate": -1e-4}, "learning_rate is -0.0001"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0"),
        ({"max_grad_norm": math.nan}, "max_grad_norm is nan"),
    ],
)
def test_options_out_of_range(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainStep(golden_policy("golden_set1").model, **{"max_grad_norm": 1.0, **OPTIONS, **changed})


def test_nothing_to_train_and_nothing_given() -> None:
    with pytest.raises(ConfigError, match="no parameter of the model requires a gradient"):
        TrainStep(new_policy().requires_grad_(False), max_grad_norm=None, **OPTIONS)
    train = TrainStep(new_policy(), max_grad_norm=None, **OPTIONS)
    batch, noise, _ = micro_batch(0)
    for batches, noises in (([], None), ([batch], [noise, noise])):
        with pytest.raises(LightWAMError) as raised:
            train.step(batches, noises)
        assert isinstance(raised.value, DataError)


def test_schedule() -> None:
    schedule = PublishedSchedule(1.0, warmup_steps=4, max_steps=12)
    assert [schedule.rate(k) for k in range(5)] == pytest.approx([0.25, 0.4375, 0.625, 0.8125, 1.0])
    assert schedule.rate(8) == pytest.approx(0.01 + 0.99 * 0.5)
    assert schedule.rate(12) == schedule.rate(99) == pytest.approx(0.01)
    assert PublishedSchedule(1.0, 0, 1).rate(0) == 1.0
    assert PublishedSchedule(1.0, 50, 3).rate(2) == 1.0  # the warm-up is cut to max_steps - 1
