# SPDX-License-Identifier: Apache-2.0
"""Each exact saving beside the unfolded computation, in float64 on random weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.golden import random_model, tiny_config
from lightwam.config import ActionExpertConfig, LightWAMConfig, LoRAConfig, VAEConfig
from lightwam.engine.graph import TensorType
from lightwam.engine.ops import OPS, Call
from lightwam.export import fold
from lightwam.export.fold import Affine
from lightwam.export.options import ExportOptions
from lightwam.export.policy_graph import build_graph
from lightwam.export.weights import StateDictWeights
from lightwam.model.action_expert import LearnedQueryPooler
from lightwam.model.dit import video_mask
from lightwam.model.lora import LoRA
from lightwam.model.rope import rope_table
from lightwam.model.vae import CausalConv3d, WanVAE

TIGHT = {"rtol": 1e-10, "atol": 1e-11}


def _affine(linear: nn.Linear) -> Affine:
    return Affine(linear.weight.detach().double(), linear.bias.detach().double())


def _apply(linear: Affine, x: Tensor) -> Tensor:
    return x @ linear.weight.T + linear.bias


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def padded_key_bias(rows: int, length: int) -> Tensor:
    """Logit biases of the first min(rows + 1, length) keys, as the op makes them."""
    declared = {"key_bias": TensorType("f32", (length,)), "key_count": TensorType("i32", (1,))}
    made = OPS["text_key_bias"].reference(Call({"text_rows": torch.tensor([rows])}, {}, declared))
    assert isinstance(made, dict)
    return made["key_bias"][: int(made["key_count"])]


def unused_weights(config: LightWAMConfig, names: Iterable[str]) -> set[str]:
    """The names that an engine never loads: VAE decoder, umT5, video head, blocks past the last adapter."""
    dropped = tuple(
        f"mot.mixtures.video.blocks.{layer}."
        for layer in range(fold.blocks_needed(config.video_dit), config.video_dit.num_layers)
    )
    prefixes = (*dropped, "mot.mixtures.video.head.", "vae.model.decoder.", "vae.model.conv2.")
    if config.text.kind == "umt5":
        prefixes = (*prefixes, "text_encoder.")
    return {name for name in names if name.startswith(prefixes) or (name.startswith("vae.") and ".time_conv." in name)}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@torch.no_grad()
def test_saving_1_blocks_after_the_last_adapter_do_not_matter() -> None:
    config = tiny_config()
    model = random_model(config)
    inputs = (torch.randn(1, 16, 1, 4, 4), torch.randn(1, 3, 32), None, torch.randn(1, 8))
    before = model.predict_actions(*inputs)
    first_dropped = fold.blocks_needed(config.video_dit)
    assert first_dropped == 5
    for name, parameter in model.video_dit.named_parameters():
        if name.startswith((f"blocks.{first_dropped}.", "head.")):
            parameter.normal_()
    torch.testing.assert_close(model.predict_actions(*inputs), before, rtol=0, atol=0)
    for name, parameter in model.video_dit.named_parameters():
        if name.startswith(f"blocks.{first_dropped - 1}."):
            parameter.normal_()
    assert not torch.allclose(model.predict_actions(*inputs), before)


@torch.no_grad()
def test_saving_2_first_frame_meets_the_last_temporal_tap() -> None:
    conv = CausalConv3d(5, 7, (3, 3, 3)).double()
    x = _randn(1, 5, 1, 9, 6)
    kernel = fold.first_frame_kernel(conv.weight).permute(0, 3, 1, 2)
    torch.testing.assert_close(F.conv2d(x[:, :, 0], kernel, conv.bias, padding=1), conv(x)[:, :, 0], **TIGHT)


@torch.no_grad()
def test_saving_3_lora_merges_into_its_linear() -> None:
    base, lora = nn.Linear(12, 9).double(), LoRA(12, 9, LoRAConfig(layers=(0,), rank=4, alpha=10.0)).double()
    lora.up_proj.weight.normal_()
    merged = fold.merge_lora(base.weight, lora.down_proj.weight, lora.up_proj.weight, 10.0 / 4)
    x = _randn(3, 12)
    torch.testing.assert_close(F.linear(x, merged, base.bias), base(x) + lora(x), **TIGHT)


@torch.no_grad()
def test_saving_4_time_branch_is_a_constant_that_folds() -> None:
    dit = random_model(tiny_config()).video_dit.double()
    config = dit.config
    inputs = dit.prepare(_randn(1, 16, 1, 4, 4), torch.zeros(1), _randn(1, 3, 32), None)
    embedding = (_affine(dit.time_embedding[0]), _affine(dit.time_embedding[2]))
    vectors = fold.time_modulation(embedding, _affine(dit.time_projection[1]), config.freq_dim)
    torch.testing.assert_close(vectors, inputs.t_mod_BT6D[0, 0], **TIGHT)
    shift, scale, gate, *_ = dit.blocks[0].modulation[0] + vectors
    x, linear = _randn(4, config.hidden_dim), nn.Linear(config.hidden_dim, 10).double()
    folded = fold.absorb_scale_shift(_affine(linear), 1 + scale, shift)
    torch.testing.assert_close(_apply(folded, x), linear(x * (1 + scale) + shift), **TIGHT)
    out = nn.Linear(10, config.hidden_dim).double()
    y = _randn(4, 10)
    torch.testing.assert_close(_apply(fold.absorb_gate(_affine(out), gate), y), gate * out(y), **TIGHT)


@pytest.mark.parametrize("kind", ["first_frame_causal", "per_frame_causal", "bidirectional"])
def test_saving_5_one_frame_needs_no_mask(kind: str) -> None:
    mask = video_mask(kind, 1, 6, torch.device("cpu"))  # type: ignore[arg-type]
    assert mask is None or bool(mask.all())
    config = tiny_config()
    assert fold.action_pass_needs_no_mask(replace(config, video_dit=replace(config.video_dit, attention_mask=kind)))


@torch.no_grad()
def test_saving_6_proprio_row_skips_the_wide_context() -> None:
    encoder, first = nn.Linear(8, 400).double(), nn.Linear(400, 24).double()
    folded = fold.fold_proprio(_affine(encoder), _affine(first))
    assert folded.weight.shape == (24, 8)
    state = _randn(1, 8)
    torch.testing.assert_close(_apply(folded, state), first(encoder(state)), **TIGHT)


@pytest.mark.parametrize("rows", [1, 5, 6])
def test_saving_7_one_zero_row_stands_for_all(rows: int) -> None:
    length = 6
    q, text_k, text_v = _randn(3, 4), _randn(rows, 4), _randn(rows, 4)
    zero_k, zero_v = _randn(1, 4), _randn(1, 4)
    keys = torch.cat([text_k, zero_k.expand(length - rows, 4)])
    values = torch.cat([text_v, zero_v.expand(length - rows, 4)])
    wanted = (q @ keys.T).softmax(-1) @ values
    bias = padded_key_bias(rows, length)
    made = (q @ keys[: len(bias)].T + bias).softmax(-1) @ values[: len(bias)]
    torch.testing.assert_close(made, wanted, **TIGHT)


@pytest.mark.parametrize("merge_dim", [None, 10])
@torch.no_grad()
def test_saving_8_pooler_scores_and_averages_first(merge_dim: int | None) -> None:
    width, heads = 24, 3
    expert = ActionExpertConfig(8, 8, num_queries=4, num_heads=heads, merge_dim=merge_dim, merge_slots=2)
    pooler = LearnedQueryPooler(width, expert).double()
    for parameter in pooler.parameters():
        parameter.normal_()
    logits = pooler.query_merge_logits[None] if merge_dim is None else pooler.query_slot_merge_logits
    folded = fold.fold_pooler(
        (pooler.token_norm.weight, pooler.token_norm.bias),
        pooler.query_tokens,
        Affine(pooler.attn.in_proj_weight, pooler.attn.in_proj_bias),
        logits,
        heads,
    )
    tokens = _randn(11, width)
    normed = F.layer_norm(tokens, (width,), eps=1e-5)
    shares = (folded.scores @ normed.T).softmax(-1).reshape(heads, 4, 11)
    averages = torch.einsum("mq,hqs,sd->mhd", folded.merge, shares, normed)
    values = torch.einsum("mhd,hkd->mhk", averages, folded.value).flatten(1) + folded.value_bias
    merged = pooler.attn.out_proj(values).flatten()
    if merge_dim is not None:
        merged = pooler.query_merge_projector(merged)
    torch.testing.assert_close(pooler.output_norm(merged), pooler(tokens[None])[0], **TIGHT)


@torch.no_grad()
def test_saving_9_step_positions_are_a_constant() -> None:
    expert = random_model(tiny_config()).state_fusion_action_expert
    norm, first, _, second = expert.step_pos_proj
    made = fold.step_positions(8, (norm.weight.double(), norm.bias.double()), _affine(first), _affine(second), norm.eps)
    torch.testing.assert_close(made.float(), expert.step_pos_proj(expert.step_positions(8)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head_dim", [24, 20, 128, 32])
def test_saving_10_rope_tables_are_those_of_the_grid(head_dim: int) -> None:
    cos, sin = fold.rope_tables((3, 5), head_dim, 10000.0)
    table = rope_table((1, 3, 5), head_dim, 10000.0)
    torch.testing.assert_close(cos, table.cos, **TIGHT)
    torch.testing.assert_close(sin, table.sin, **TIGHT)


@torch.no_grad()
def test_saving_11_latent_statistics_fold_into_the_head() -> None:
    config = VAEConfig(base_dim=4, z_dim=3, latent_mean=(0.5, -1.0, 2.0), latent_std=(2.0, 0.5, 3.0))
    vae = WanVAE(config).double()
    head, last = vae.model.encoder.head[2], vae.model.conv1
    x = _randn(1, 16, 1, 6, 5)
    mean, _ = last(head(x)).chunk(2, dim=1)
    weight, bias = fold.fold_latent_head(
        (fold.first_frame_kernel(head.weight), head.bias),
        Affine(last.weight.flatten(1), last.bias),
        torch.tensor(config.latent_mean, dtype=torch.float64),
        torch.tensor(config.latent_std, dtype=torch.float64),
    )
    made = F.conv2d(x[:, :, 0], weight.permute(0, 3, 1, 2), bias, padding=1)
    # The model's statistics are float32 numbers.
    torch.testing.assert_close(made, vae.normalize(mean)[:, :, 0], rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_averaged_latents_fold_into_the_patch_kernel() -> None:
    patch = nn.Conv2d(3, 7, 2, stride=2).double()
    x = _randn(1, 3, 12, 8)
    kernel = fold.pooled_patch_kernel(patch.weight, 2).permute(0, 3, 1, 2)
    made = F.conv2d(x, kernel, patch.bias, stride=4)
    torch.testing.assert_close(made, patch(F.avg_pool2d(x, 2)), **TIGHT)


def test_saving_12_an_engine_never_reads_what_it_does_not_need() -> None:
    config = LightWAMConfig.nano()
    model, vae = random_model(config), WanVAE(config.vae)
    names = {**model.state_dict(), **{f"vae.{name}": x for name, x in vae.state_dict().items()}}
    unused = unused_weights(config, names)
    assert {name.split(".")[2] for name in unused if name.startswith("vae.")} == {"decoder", "conv2", "encoder"}
    read: set[str] = set()

    class Seen(StateDictWeights):
        def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
            read.add(name)
            return super().get(name, shape)

    weights = Seen({name: x for name, x in names.items() if name not in unused})
    graph = build_graph(config, weights, ExportOptions())
    for constant in graph.constants.values():
        constant.array()
    assert read == set(names) - unused


@pytest.mark.parametrize(("heads", "width"), [(3, 20), (4, 48)])
def test_saving_13_output_projection_of_every_key(heads: int, width: int) -> None:
    """O (sum_k p_k V_k) by head is sum_k p_k (O_h V_hk): one vector a key and head, as `grouped_linear` makes it."""
    tokens, keys, inner = 7, 5, heads * 8
    shares, values = _randn(heads, tokens, keys).softmax(-1), _randn(keys, inner)
    output = _randn(width, inner)
    by_head = values.reshape(keys, heads, -1).transpose(0, 1)
    wanted = (shares @ by_head).transpose(0, 1).flatten(1) @ output.T
    folded = torch.einsum("khd,hnd->khn", values.reshape(keys, heads, -1), fold.split_heads(output, heads))
    torch.testing.assert_close(torch.einsum("hsk,khn->sn", shares, folded), wanted, **TIGHT)


def test_bias_of_one_text_row_among_128() -> None:
    assert padded_key_bias(1, 128).tolist() == [0.0, math.log(127)]
