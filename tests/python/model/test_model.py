# SPDX-License-Identifier: Apache-2.0
"""Options and properties beyond the golden numbers, and refusal of inputs and checkpoints that do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.model_golden import load_json, load_tensors, relative_error
from helpers.model_tiny import build, example, tiny
from lightwam.config import ActionExpertConfig, LightWAMConfig
from lightwam.errors import CheckpointError, ConfigError
from lightwam.model import LightWAM
from lightwam.model.action_expert import LearnedQueryPooler
from lightwam.model.attention import attention
from lightwam.model.dit import video_mask

SOURCES = ("backbone", "adapted", "delta")


# Options --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    "expert",
    [
        {"merge_dim": 20, "merge_slots": 3, "sources": SOURCES},
        {"layer_sources": (("delta",), SOURCES)},
        {"pooling": "mean", "sources": SOURCES, "num_trunk_blocks": 2},
    ],
)
def test_expert_options_and_14_actions(expert: dict[str, Any]) -> None:
    model = build(tiny(**expert))
    inputs = example(model)
    actions = model.predict_actions(**inputs)
    assert actions.shape == (2, 16, 14) and bool(actions.isfinite().all())
    features = model.action_features(**inputs)
    torch.testing.assert_close(features.actions_BHA, actions)
    width = model.config.action_expert.merge_dim or 48
    counts = [len(sources) for sources in model.config.action_expert.sources_per_layer(2)]
    assert [vector.shape[1] for vector in features.pooled] == [width * count for count in counts]


@torch.no_grad()
def test_pooler_equals_torch_attention() -> None:
    """One pooler with merged slots, written once more with torch's own MultiheadAttention."""
    config = ActionExpertConfig(8, 8, num_queries=5, num_heads=4, merge_dim=7, merge_slots=2)
    pooler = LearnedQueryPooler(16, config)
    for parameter in pooler.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)
    tokens = torch.randn(3, 11, 16)
    oracle = nn.MultiheadAttention(16, 4, batch_first=True)
    oracle.load_state_dict(pooler.attn.state_dict())
    normed, queries = pooler.token_norm(tokens), pooler.query_tokens.expand(3, -1, -1)
    answers, weights = oracle(queries, normed, normed, average_attn_weights=False)
    slots = [sum(w * answers[:, q] for q, w in enumerate(F.softmax(row, 0))) for row in pooler.query_slot_merge_logits]
    expected = pooler.output_norm(pooler.query_merge_projector(torch.cat(slots, dim=-1)))
    torch.testing.assert_close(pooler(tokens), expected)
    summary = pooler.attention_summary(tokens)
    torch.testing.assert_close(summary.per_query, weights.mean(dim=1))
    importance = F.softmax(pooler.query_slot_merge_logits, dim=-1).mean(dim=0)
    torch.testing.assert_close(summary.query_weight, importance)
    torch.testing.assert_close(summary.summary, torch.einsum("q,bqs->bs", importance, summary.per_query))
    assert summary.top_query == int(importance.argmax())


@torch.no_grad()
def test_pooler_attention_sums_to_one() -> None:
    model = build(tiny(sources=SOURCES))
    summaries = model.pooler_attention(**example(model))
    assert set(summaries) == {0, 2} and all(tuple(sources) == SOURCES for sources in summaries.values())
    for summary in (s for sources in summaries.values() for s in sources.values()):
        torch.testing.assert_close(summary.per_query.sum(-1), torch.ones(2, 3))
        torch.testing.assert_close(summary.summary.sum(-1), torch.ones(2))
    with pytest.raises(ConfigError, match="mean"):
        mean = build(tiny(pooling="mean"))
        mean.pooler_attention(**example(mean))


def test_partial_lora_sits_where_it_was_asked_for() -> None:
    names = {name.rsplit(".", 2)[0] for name in LightWAM(tiny()).video_dit.state_dict() if "lora" in name}
    expected = {"self_attn.lora_q", "cross_attn.lora_o", "ffn_lora_out"}
    assert names == {f"blocks.{layer}.{module}" for layer in (1, 3) for module in expected}


@torch.no_grad()
def test_lora_equals_merged_weights() -> None:
    model = build(tiny())
    expected = model.predict_actions(**example(model))
    for layer in (1, 3):
        block: Any = model.video_dit.blocks[layer]
        for linear, lora in (
            (block.self_attn.q, block.self_attn.lora_q),
            (block.cross_attn.o, block.cross_attn.lora_o),
            (block.ffn[2], block.ffn_lora_out),
        ):
            linear.weight += (6.0 / 2) * lora.up_proj.weight @ lora.down_proj.weight
            lora.up_proj.weight.zero_()
    assert relative_error(model.predict_actions(**example(model)), expected) < 1e-5


@torch.no_grad()
def test_masked_rows_do_not_matter() -> None:
    model = build(tiny())
    inputs = example(model)
    inputs["context_mask"][:, 3:] = False
    short = {**inputs, "context": inputs["context"][:, :3], "context_mask": inputs["context_mask"][:, :3]}
    assert relative_error(model.predict_actions(**inputs), model.predict_actions(**short)) < 1e-5
    inputs["context"][:, 3:] = 1e3
    for method in ("sdpa", "softmax", "kernels"):
        model.set_attention(method)  # type: ignore[arg-type]
        assert relative_error(model.predict_actions(**inputs), model.predict_actions(**short)) < 1e-5
    every = {**short, "context_mask": None}
    torch.testing.assert_close(model.predict_actions(**every), model.predict_actions(**short))


@torch.no_grad()
def test_first_frame_sees_itself_alone() -> None:
    """The first frame's flow is the same whatever the later frames hold; the later ones do see the first."""
    model = build(tiny())
    inputs = example(model)
    condition = (inputs["context"], inputs["context_mask"], inputs["proprio"])
    latents = torch.randn(2, 16, 3, 4, 8)
    changed = torch.cat((latents[:, :, :1], torch.randn(2, 16, 2, 4, 8)), dim=2)
    timestep = torch.tensor([500.0, 900.0])
    a, b = (model.predict_flow(x, timestep, *condition) for x in (latents, changed))
    assert a.shape == latents.shape
    lowres = model.predict_flow_lowres(model.downsample(latents), timestep, *condition)
    other = model.predict_flow_lowres(model.downsample(changed), timestep, *condition)
    torch.testing.assert_close(lowres[:, :, 0], other[:, :, 0])
    assert not torch.allclose(lowres[:, :, 1:], other[:, :, 1:])
    assert not torch.allclose(a, b)


def test_video_masks() -> None:
    cpu = torch.device("cpu")
    assert video_mask("first_frame_causal", 1, 3, cpu) is None
    assert video_mask("bidirectional", 3, 2, cpu) is None
    first = video_mask("first_frame_causal", 3, 1, cpu)
    causal = video_mask("per_frame_causal", 3, 1, cpu)
    assert first is not None and first.tolist() == [[True, False, False], [True] * 3, [True] * 3]
    assert causal is not None and causal.tolist() == [[True, False, False], [True, True, False], [True] * 3]


@pytest.mark.parametrize("masked", [False, True])
def test_both_ways_to_attend_agree_with_gradients(masked: bool) -> None:
    mask = torch.rand(2, 1, 5, 7) > 0.4 if masked else None
    if mask is not None:
        mask[..., 0] = True
    grads = []
    for method in ("sdpa", "softmax"):
        torch.manual_seed(0)
        q, k, v = (torch.randn(2, n, 8, requires_grad=True) for n in (5, 7, 7))
        out = attention(q, k, v, num_heads=2, mask=mask, method=method)  # type: ignore[arg-type]
        out.square().sum().backward()
        grads.append([out, q.grad, k.grad, v.grad])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_action_pass_may_run_down_sampled() -> None:
    config = tiny()
    model = build(replace(config, video=replace(config.video, downsample_action_pass=True)))
    inputs = example(model)
    plain = build(config)
    pooled = {**inputs, "latents": F.avg_pool3d(inputs["latents"], (1, 2, 2))}
    torch.testing.assert_close(model.predict_actions(**inputs), plain.predict_actions(**pooled))


def test_imagined_video_keeps_the_first_latent() -> None:
    model = build(tiny())
    inputs = example(model)
    condition = (inputs["context"], inputs["context_mask"], inputs["proprio"])
    video = model.sample_video(inputs["latents"], *condition, num_steps=2, generator=torch.Generator().manual_seed(0))
    assert video.shape == (2, 16, 2, 2, 4) and not video.requires_grad
    assert torch.equal(video[:, :, :1], model.downsample(inputs["latents"]))
    full = model.sample_video(inputs["latents"], *condition, num_steps=1, full_resolution=True)
    assert full.shape == (2, 16, 2, 4, 8)
    with pytest.raises(ConfigError, match="noise has shape"):
        model.sample_video(inputs["latents"], *condition, noise=torch.zeros(2, 16, 2, 4, 8))


# Bad inputs and checkpoints -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"latents": torch.zeros(2, 16, 2, 4, 8)}, "latents have shape"),
        ({"latents": torch.zeros(2, 16, 1, 5, 8)}, "latents have shape"),
        ({"latents": torch.zeros(2, 4, 1, 4, 8)}, "latents have shape"),
        ({"context": torch.zeros(2, 5, 21)}, "context"),
        ({"context_mask": torch.ones(2, 4, dtype=torch.bool)}, "context mask"),
        ({"context_mask": torch.ones(2, 5)}, "context mask is torch.float32"),
        ({"proprio": torch.zeros(2, 8)}, r"proprio has shape \(2, 8\)"),
    ],
)
def test_bad_inputs(change: dict[str, Tensor], named: str) -> None:
    model = build(tiny())
    with pytest.raises(ConfigError, match=named):
        model.predict_actions(**{**example(model), **change})


def test_unknown_attention_method() -> None:
    with pytest.raises(ConfigError, match="'flash'"):
        build(tiny()).set_attention("flash")  # type: ignore[arg-type]


def test_loads_flat_and_nested_checkpoints_and_refuses_others() -> None:
    groups = ("mot", "state_fusion_action_expert", "proprio_encoder")
    flat = {k: v for k, v in load_tensors("golden_set1").items() if k.split(".")[0] in groups}
    config = LightWAMConfig.from_published(load_json("golden_set1"))
    nested: dict[str, Any] = {"step": 7, "torch_dtype": "torch.bfloat16"}
    for group in groups:
        prefix = f"{group}."
        nested[group] = {k.removeprefix(prefix): v.bfloat16() for k, v in flat.items() if k.startswith(prefix)}
    a, b = (LightWAM(config).load_published(state) for state in (flat, nested))
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key]) and value.dtype == torch.float32, key
    before = {key: value.clone() for key, value in a.state_dict().items()}
    key = "proprio_encoder.bias"
    for broken, named in (
        ({k: v for k, v in flat.items() if k != key}, f"1 missing: {key}"),
        ({**flat, "extra.weight": flat[key]}, "1 unknown: extra.weight"),
        ({**flat, key: flat[key][:5]}, r"1 wrong shape: proprio_encoder.bias \[5\] instead of \[32\]"),
        ({**flat, key: 3}, r"not a tensor: proprio_encoder.bias \(int\)"),
        ({**nested, "mot": None}, r"lacks the parts \['mot'\]"),
        ({**nested, "extra": {"weight": flat[key]}}, "1 unknown: extra.weight"),
        ({**nested, "extra": flat[key]}, "1 unknown: extra"),
    ):
        with pytest.raises(CheckpointError, match=named):
            a.load_published(broken)
    assert all(torch.equal(value, before[name]) for name, value in a.state_dict().items())


@torch.no_grad()
def test_runs_in_bf16() -> None:
    model = build(tiny())
    expected = model.predict_actions(**example(model))
    narrow = model.bfloat16().predict_actions(**example(model))
    assert narrow.dtype == torch.bfloat16
    cosine = F.cosine_similarity(narrow.float().flatten(), expected.flatten(), dim=0)
    assert cosine > 0.999
