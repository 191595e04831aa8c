# SPDX-License-Identifier: Apache-2.0
"""The predicted memory of a training beside what a run really takes, tensor by tensor, on a CPU."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.model_tiny import tiny
from lightwam import cli
from lightwam.config import LightWAMConfig
from lightwam.errors import ConfigError
from lightwam.model import LightWAM
from lightwam.train import TrainStep
from lightwam.train.networks import PolicyNetworks
from lightwam.train.plan import MemoryPlan, meta_batch
from lightwam.train.recipe import Recipe, read_recipe
from lightwam.train.sharding import frozen_as

BATCH = 8


def recipe_of(precision: Any, **changes: Any) -> Recipe:
    nano = read_recipe("nano")
    losses = replace(nano.losses, video_batch=None, localisation_weight=0.0)
    computing = replace(nano.computing, precision=precision)
    return replace(nano, policy=wider(), losses=losses, computing=computing, **changes)


@functools.cache
def wider() -> LightWAMConfig:
    """Tiny, and wide enough for large tensors to count more than small ones."""
    config = tiny()
    dit = replace(config.video_dit, hidden_dim=96, num_heads=4, ffn_dim=256)
    return replace(config, video_dit=dit)


def memory_taken(recipe: Recipe) -> tuple[int, int]:
    """(bytes of weights, masters, moments and averages after a step; bytes that autograd keeps) of a real run."""
    dtype = torch.bfloat16 if recipe.computing.precision == "bfloat16" else torch.float32
    networks = PolicyNetworks(LightWAM(recipe.policy), None).to(dtype).train()
    networks.policy.set_attention("sdpa")
    if recipe.computing.precision == "autocast":
        frozen_as(networks, torch.bfloat16)
    autocast = torch.bfloat16 if recipe.computing.precision == "autocast" else None
    step = TrainStep(networks, learning_rate=1e-3, weight_decay=0.0, warmup_steps=0, max_steps=3, max_grad_norm=1.0,
                     autocast=autocast, ema_decay=0.9)  # fmt: skip
    shapes = meta_batch(recipe.policy, BATCH, dtype)
    batch = {name: torch.ones(t.shape, dtype=t.dtype) for name, t in shapes.items()}
    batch["video_latents"] = torch.randn(shapes["video_latents"].shape).to(dtype)
    noise = networks.policy.downsample(torch.randn(shapes["video_latents"].shape)).to(dtype)
    step.step([batch], [noise], [torch.full((BATCH,), 500.0)])
    step.optimizer.zero_grad(set_to_none=True)
    for parameter in step.parameters:
        parameter.grad = None
    kept: dict[int, Tensor] = {}
    own = {parameter.untyped_storage()._cdata for parameter in networks.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in own:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), step.computing():
        losses = networks(batch, noise, torch.full((BATCH,), 500.0))
    activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del losses
    persistent = sum(t.nbytes for t in networks.parameters())
    persistent += sum(m.nbytes for m, p in zip(step.masters, step.parameters, strict=True) if m is not p)
    persistent += sum(t.nbytes for state in step.optimizer.state.values() for t in state.values())
    assert step.average is not None
    return persistent + sum(t.nbytes for t in step.average.values), activations


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_the_prediction_is_near_what_a_step_takes(precision: str) -> None:
    """Weights, masters, moments and averages within 1 %; what autograd keeps within 5 %, or 30 % too much with autocast
    (a CPU's attention keeps what a fused kernel does)."""
    recipe = recipe_of(precision)
    predicted = MemoryPlan(recipe, 1).predict("ddp", BATCH, checkpointing=False)
    persistent, activations = memory_taken(recipe)
    parts = predicted.weights + predicted.masters + predicted.optimizer + predicted.average
    assert parts == pytest.approx(persistent, rel=0.01)
    allowed = 0.3 if precision == "autocast" else 0.05
    assert predicted.activations == pytest.approx(activations, rel=allowed)
    assert predicted.gradients == 4 * sum(p.numel() for p in LightWAM(wider()).parameters() if p.requires_grad)


def test_what_shares_and_saves_memory() -> None:
    plan = MemoryPlan(recipe_of("bfloat16"), 4)
    whole, parts = (plan.predict(sharding, BATCH, checkpointing=False) for sharding in ("ddp", "fsdp"))  # type: ignore[arg-type]
    for name in ("weights", "masters", "gradients", "optimizer"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name) / 4, abs=4)
    assert parts.gathered > whole.gathered == 0 and parts.activations == whole.activations
    less = plan.predict("ddp", BATCH, checkpointing=True)
    assert less.activations < 0.8 * whole.activations
    double = plan.predict("ddp", 2 * BATCH, checkpointing=False)
    assert 1.8 * whole.activations < double.activations < 2.05 * whole.activations
    assert MemoryPlan(recipe_of("float32"), 1).predict("ddp", 1, checkpointing=False).masters == 0


def test_the_largest_batch_that_fits() -> None:
    plan = MemoryPlan(recipe_of("bfloat16"), 2)
    room = plan.predict("ddp", 16, checkpointing=False).total
    found = {(p.sharding, p.checkpointing): p for p in plan.propose(room)}
    assert found["ddp", False].batch == 16 <= found["fsdp", False].batch
    assert found["ddp", True].batch >= 16 and all(p.memory.total <= room for p in found.values())
    assert plan.propose(1000) == []
    with pytest.raises(ConfigError, match="--gpus is 0"):
        MemoryPlan(recipe_of("bfloat16"), 0)
    with pytest.raises(ConfigError, match="--batch is 0"):
        plan.predict("ddp", 0, checkpointing=False)


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "plan", "--recipe", "nano", "--gpus", "64", "--gpu-memory", "24"]) == 0
    out = capsys.readouterr().out
    assert "64 GPU(s), batch 32 each" in out and "fsdp, checkpointing" in out
    assert (
        "torchrun --nnodes 8 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m lightwam.cli" in out
    )
    assert cli.main(["train", "plan", "--recipe", "nano", "--gpu-memory", "0.001"]) == 1
    assert "nothing fits into 0.001 GB" in capsys.readouterr().out
    assert cli.main(["train", "plan", "--gpu-memory", "nan"]) == 2
    assert "--gpu-memory is nan" in capsys.readouterr().err
