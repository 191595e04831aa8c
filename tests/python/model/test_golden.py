# SPDX-License-Identifier: Apache-2.0
"""Every stage, loss and gradient of the policy against the published implementation's numbers (sets 1 and 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.model_golden import load_json, load_tensors, relative_error
from lightwam.config import LightWAMConfig
from lightwam.model import LightWAM
from lightwam.model.action_expert import StateFusionActionExpert

TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4


@dataclass
class Golden:
    tensors: dict[str, Tensor]
    settings: dict[str, Any]
    model: LightWAM

    def inputs(self, *names: str) -> list[Tensor]:
        return [self.tensors[f"in.{name}"] for name in names]

    def batch(self, padded: bool) -> dict[str, Tensor]:
        keys = ["video_latents", "action", "proprio", "context", "context_mask"]
        return {key: self.tensors[f"train.{key}"] for key in keys + ["image_is_pad", "action_is_pad"] * padded}


def build(tensors: dict[str, Tensor], settings: dict[str, Any]) -> LightWAM:
    groups = ("mot", "state_fusion_action_expert", "proprio_encoder")
    model = LightWAM(LightWAMConfig.from_published(settings))
    return model.load_published({k: v for k, v in tensors.items() if k.split(".")[0] in groups})


@pytest.fixture(scope="module", params=["golden_set1", "golden_set3"])
def golden(request: pytest.FixtureRequest) -> Golden:
    tensors, settings = load_tensors(request.param), load_json(request.param)
    return Golden(tensors, settings, build(tensors, settings))


def action_stages(golden: Golden) -> dict[str, Tensor]:
    """Every recorded stage of the action pass, computed by the model's own pieces."""
    model, dit, expert = golden.model, golden.model.video_dit, golden.model.state_fusion_action_expert
    latents, context, mask, proprio = golden.inputs("latents", "context", "context_mask", "proprio")
    context, with_proprio = model.append_proprio(context, mask, proprio)
    assert with_proprio is not None
    inputs = dit.prepare(latents, torch.zeros(len(latents)), context, with_proprio)
    stages = {"context_with_proprio": context, "context_mask_with_proprio": with_proprio, "tokens": inputs.tokens_BSD}
    stages |= {"context_emb": inputs.context_BLD, "t": inputs.t_BTD, "t_mod": inputs.t_mod_BT6D}
    stages["rope_freqs_real"] = torch.stack(tuple(inputs.rope), dim=-1)
    blocks: dict[str, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _m, _i, out, name=f"block.{i}": blocks.__setitem__(name, out))
        for i, block in enumerate(dit.blocks)
    ]
    output = dit.run_blocks(inputs)
    for hook in hooks:
        hook.remove()
    stages |= blocks | {"tokens_final": output.tokens_BSD}
    for layer, state in output.states.items():
        stages |= {f"adapted.{layer}": state.adapted, f"adapter_delta.{layer}": state.adapted - state.backbone}
    states = [output.states[layer] for layer in model.config.video_dit.adapters.layers]
    return stages | expert_stages(expert, states, model.config)


def expert_stages(expert: StateFusionActionExpert, states: list[Any], config: LightWAMConfig) -> dict[str, Tensor]:
    out = expert(states, config.horizon)
    stages = {f"pooled.{i}": vector for i, vector in enumerate(out.pooled)}
    stages |= {f"compressed.{i}": vector for i, vector in enumerate(out.compressed)}
    fused = torch.cat(out.compressed, dim=-1)
    projected = expert.fused_proj(expert.fused_norm(fused))
    stages |= {"fused_concat": fused, "fused_proj": projected, "fused_state": out.fused_BK, "action": out.actions_BHA}
    stages |= {f"trunk.{i}": out.fused_BK for i in range(config.action_expert.num_trunk_blocks)}
    positions = expert.step_positions(config.horizon)
    stages |= {"step_pos": positions, "step_pos_proj": expert.step_pos_proj(positions)}
    if config.action_expert.pooling == "learned_query":
        for i, layer in enumerate(config.video_dit.adapters.layers):
            pooler = expert.pooler(i, "adapted")
            stages[f"pooler.{i}.adapted"] = pooler(states[i].adapted)
            stages[f"attn.{layer}.adapted"] = pooler.attention_summary(states[i].adapted).per_query
    return stages


@torch.no_grad()
def test_every_stage_of_the_action_pass(golden: Golden) -> None:
    stages = action_stages(golden)
    recorded = {key[4:] for key in golden.tensors if key.startswith("out.") and not key.startswith("out.video.")}
    assert set(stages) == recorded
    for name, value in stages.items():
        expected = golden.tensors[f"out.{name}"]
        if expected.dtype == torch.bool:
            assert torch.equal(value, expected), name
        else:
            assert relative_error(value, expected) < TOLERANCE, name


@torch.no_grad()
@pytest.mark.parametrize("method", ["sdpa", "softmax", "kernels"])
def test_public_action_calls(golden: Golden, method: Any) -> None:
    arguments = dict(zip(("latents", "context", "context_mask", "proprio"),
                         golden.inputs("latents", "context", "context_mask", "proprio"), strict=True))  # fmt: skip
    golden.model.set_attention(method)
    expected = golden.tensors["out.action"]
    assert relative_error(golden.model.predict_actions(**arguments), expected) < TOLERANCE
    assert relative_error(golden.model.action_features(**arguments).actions_BHA, expected) < TOLERANCE
    golden.model.set_attention("sdpa")


@torch.no_grad()
def test_every_stage_of_the_video_pass(golden: Golden) -> None:
    model, tensors = golden.model, golden.tensors
    noisy, timestep = golden.inputs("video_latents_noisy", "video_timestep")
    condition = golden.inputs("context", "context_mask", "proprio")
    context, mask = model.append_proprio(*condition)
    inputs = model.video_dit.prepare(model.downsample(noisy), timestep, context, mask)
    tokens = model.video_dit.run_blocks(inputs).tokens_BSD
    lowres = model.video_dit.predict(tokens, inputs)
    times, deltas = model.flow_matching.sampling_schedule(4)
    stages = {
        "tokens": inputs.tokens_BSD,
        "tokens_final": tokens,
        "t_last": inputs.t_BTD[:, -1:],
        "t_mod_first": inputs.t_mod_BT6D[:, :1],
        "t_mod_last": inputs.t_mod_BT6D[:, -1:],
        "flow": model.predict_flow(noisy, timestep, *condition),
        "sampled4": model.sample_video(noisy[:, :, :1], *condition, num_steps=4, noise=noisy, full_resolution=True),
        "sched_t": times,
        "sched_delta": deltas,
    }
    if model.config.video.spatial_downsample > 1:
        stages["flow_lowres"] = lowres
    assert set(stages) == {key[10:] for key in tensors if key.startswith("out.video.")}
    for name, value in stages.items():
        assert relative_error(value, tensors[f"out.video.{name}"]) < TOLERANCE, name


@pytest.mark.parametrize("padded", [False, True])
def test_losses(golden: Golden, padded: bool) -> None:
    case = "pad" if padded else "nopad"
    losses = golden.model.training_losses(
        golden.batch(padded), noise=golden.tensors["train.noise"], timestep=golden.tensors["train.timestep"]
    )
    recorded = golden.settings["losses"][case]
    assert losses["loss"].item() == pytest.approx(recorded["total"], rel=TOLERANCE)
    assert losses["loss"].item() == pytest.approx(golden.tensors[f"train.{case}.loss_total"].item(), rel=TOLERANCE)
    assert losses["loss_video"].item() == pytest.approx(recorded["loss_video"], rel=TOLERANCE)
    assert losses["loss_action"].item() == pytest.approx(recorded["loss_action"], rel=TOLERANCE)


@pytest.mark.parametrize("padded", [False, True])
def test_gradients(golden: Golden, padded: bool) -> None:
    model = golden.model.train()
    model.zero_grad(set_to_none=True)
    noise, timestep = golden.tensors["train.noise"], golden.tensors["train.timestep"]
    model.training_losses(golden.batch(padded), noise=noise, timestep=timestep)["loss"].backward()
    model.eval()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    recorded = golden.settings["losses"]["pad" if padded else "nopad"]
    assert set(recorded["grad_norms"]) == set(gradients) == {n for n, p in model.named_parameters() if p.requires_grad}
    largest = max(recorded["grad_norms"].values())
    for name, norm in recorded["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=GRADIENT_TOLERANCE, abs=1e-7 * largest), name
    total = torch.stack([g.norm() for g in gradients.values()]).norm().item()
    assert total == pytest.approx(recorded["grad_norm_total"], rel=GRADIENT_TOLERANCE)
    if padded:
        for key in (key for key in golden.tensors if key.startswith("grad.pad.")):
            assert relative_error(gradients[key[9:]], golden.tensors[key]) < GRADIENT_TOLERANCE, key


@torch.no_grad()
def test_samples_of_a_batch_are_independent(golden: Golden) -> None:
    latents, context, mask, proprio = golden.inputs("latents", "context", "context_mask", "proprio")
    generator = torch.Generator().manual_seed(0)
    other = [torch.randn(x.shape, generator=generator) for x in (latents, context, proprio)]
    both = [torch.cat(pair) for pair in zip((latents, context, proprio), other, strict=True)]
    together = golden.model.predict_actions(both[0], both[1], torch.cat((mask, mask)), both[2])
    assert relative_error(together[: len(latents)], golden.tensors["out.action"]) < TOLERANCE


@torch.no_grad()
def test_float64_agrees_with_float32(golden: Golden) -> None:
    wide = build(golden.tensors, golden.settings).double()
    latents, context, mask, proprio = golden.inputs("latents", "context", "context_mask", "proprio")
    actions = wide.predict_actions(latents.double(), context.double(), mask, proprio.double())
    assert actions.dtype == torch.float64
    assert relative_error(actions.float(), golden.tensors["out.action"]) < TOLERANCE
    # In float64 the two ways to compute attention agree to float64 rounding: nothing drops to float32 on the way.
    plain = wide.set_attention("softmax").predict_actions(latents.double(), context.double(), mask, proprio.double())
    assert relative_error(plain, actions) < 1e-12
