# SPDX-License-Identifier: Apache-2.0
"""The published LIBERO policy on the meta device: names, shapes, parameter counts, arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training_step import count_flops, our_losses, published_losses, random_step

from helpers.model_golden import load_json
from lightwam.config import LightWAMConfig
from lightwam.model import LightWAM, WanVAE


@pytest.fixture(scope="module")
def model() -> LightWAM:
    with torch.device("meta"):
        return LightWAM(LightWAMConfig.libero())


def trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def total(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_exactly_the_published_keys_and_shapes(model: LightWAM) -> None:
    reference = {
        f"{group}.{key}": tuple(shape)
        for group in ("mot", "state_fusion_action_expert", "proprio_encoder")
        for key, (shape, _) in load_json("reference_keys")[group].items()
    }
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == reference


def test_parameter_counts(model: LightWAM) -> None:
    dit = model.video_dit
    adapters, head = total(dit.wam_adapters), total(dit.head)
    lora = sum(p.numel() for name, p in dit.named_parameters() if "lora_" in name)
    assert trainable(model) == 441_031_543
    assert (lora, adapters, head) == (87_490_560, 2_373_888, 101_440)
    assert (total(model.state_fusion_action_expert), total(model.proprio_encoder)) == (351_028_791, 36_864)
    assert total(dit) - lora - adapters - head == 1_418_895_360


def test_vae_parameter_counts() -> None:
    with torch.device("meta"):
        vae = WanVAE(LightWAMConfig.libero().vae).model
    assert total(vae.encoder) == 53_595_872
    assert total(vae.decoder) == 73_295_331


def test_robotwin_differs_in_its_inputs_and_outputs_only() -> None:
    with torch.device("meta"):
        model = LightWAM(LightWAMConfig.robotwin())
    assert trainable(model) == 441_031_543 + 7 * 6144 + 7 + 6 * 4096


@pytest.mark.parametrize("method", ["sdpa", "softmax"])
def test_arithmetic_of_the_unfolded_action_pass(model: LightWAM, method: str) -> None:
    """1,823 GFLOP published. Ours are 13 fewer: the time branch runs once a frame, not once a token (same numbers)."""
    config = model.config
    model.set_attention(method)  # type: ignore[arg-type]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        frame = torch.empty(1, 3, 1, config.cameras.height, config.cameras.width)
        latents = WanVAE(config.vae).encode(frame)
        vae = counter.get_total_flops()
        mask = torch.ones(1, config.text.length, dtype=torch.bool)
        actions = model.predict_actions(latents, torch.empty(1, config.text.length, 4096), mask, torch.empty(1, 8))
    assert actions.shape == (1, 32, 7)
    assert vae == pytest.approx(672e9, rel=0.01)
    assert counter.get_total_flops() == pytest.approx(1823e9, rel=0.01)


def test_arithmetic_of_a_training_step() -> None:
    """Counted on 7 of the 30 blocks and multiplied: 5 of the 25 in both passes, 1 of 4 in the video's, the last one."""
    config = LightWAMConfig.libero()
    dit = config.video_dit
    assert dit.lora is not None
    few = replace(
        dit,
        num_layers=7,
        adapters=replace(dit.adapters, layers=(2, 3, 4)),
        lora=replace(dit.lora, layers=tuple(range(7))),
    )
    with torch.device("meta"):
        model = LightWAM(replace(config, video_dit=few))
    step = random_step(model.config)
    totals = []
    for losses, inputs in ((published_losses, step), (our_losses, step.with_equal_rows_merged())):
        forward, backward, blocks = count_flops(model, losses, inputs.to("meta"))
        totals.append(forward + backward + 20 * blocks[1] + 3 * blocks[5])
    published, ours = totals
    assert published == pytest.approx(3969.3e9, rel=1e-4)
    assert ours <= 0.8479 * published
