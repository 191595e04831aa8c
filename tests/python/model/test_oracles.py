# SPDX-License-Identifier: Apache-2.0
"""Key maps and arithmetic against implementations that nobody here wrote: diffusers' Wan transformer and VAE."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.model_golden import relative_error
from helpers.released import load_backbone, load_vae
from lightwam.config import AdapterConfig, LightWAMConfig, LoRAConfig, VAEConfig, VideoDiTConfig
from lightwam.errors import CheckpointError
from lightwam.model import LightWAM, WanVAE

DIT = VideoDiTConfig(
    hidden_dim=48,
    ffn_dim=64,
    num_heads=2,
    head_dim=24,
    num_layers=3,
    adapters=AdapterConfig(layers=(1,), dim=8),
    lora=LoRAConfig(layers=(0, 2), rank=2),
    freq_dim=16,
    text_dim=20,
    attention_mask="bidirectional",
)


def config() -> LightWAMConfig:
    nano = LightWAMConfig.nano()
    return replace(nano, video_dit=DIT, text=replace(nano.text, width=20))


@pytest.fixture(scope="module")
def transformer() -> Any:
    import diffusers

    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=16,
        out_channels=16,
        text_dim=20,
        freq_dim=16,
        ffn_dim=64,
        num_layers=3,
        rope_max_seq_len=32,
    )
    return model.requires_grad_(False).eval()


@torch.no_grad()
def test_backbone_of_diffusers(transformer: Any) -> None:
    """Fresh LoRA and adapters change nothing, so the DiT must equal the oracle, per-frame times included."""
    model = LightWAM(config())
    load_backbone(model, transformer.state_dict())
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 16, 3, 4, 8, generator=generator)
    context = torch.randn(2, 5, 20, generator=generator)
    timestep = torch.tensor([831.0, 40.0])
    per_token = timestep[:, None].repeat(1, 3 * 2 * 4)
    per_token[:, : 2 * 4] = 0  # the first latent frame is clean
    expected = transformer(latents, per_token, context, return_dict=False)[0]
    inputs = model.video_dit.prepare(latents, timestep, context, None)
    actual = model.video_dit.predict(model.video_dit.run_blocks(inputs).tokens_BSD, inputs)
    assert relative_error(actual, expected) < 1e-5


def test_backbone_under_official_names(transformer: Any) -> None:
    source = LightWAM(config())
    load_backbone(source, transformer.state_dict())
    official: dict[str, Tensor] = {
        f"model.{key}": value
        for key, value in source.video_dit.state_dict().items()
        if "lora_" not in key and "wam_adapters" not in key
    }
    target = LightWAM(config())
    load_backbone(target, official)
    assert torch.equal(target.video_dit.blocks[2].ffn[2].weight, source.video_dit.blocks[2].ffn[2].weight)  # type: ignore[union-attr, index]
    del official["model.head.head.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing: head\.head\.bias"):
        load_backbone(target, official)


@torch.no_grad()
def test_vae_of_diffusers() -> None:
    import diffusers

    torch.manual_seed(0)
    oracle = diffusers.AutoencoderKLWan(base_dim=8, z_dim=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    vae = WanVAE(VAEConfig(base_dim=8, z_dim=4, latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4))
    load_vae(vae, {"model_state": vae_weights(oracle, vae)})
    clip = torch.rand(1, 3, 5, 32, 16) * 2 - 1
    moments = oracle.encode(clip).latent_dist
    mean, log_variance = vae.encode_moments(clip)
    assert relative_error(mean, moments.mean) < 1e-5
    assert relative_error(log_variance.clamp(-30, 20), moments.logvar) < 1e-5
    assert relative_error(vae.decode(mean), oracle.decode(moments.mean).sample) < 1e-5


def vae_weights(oracle: Any, vae: WanVAE) -> dict[str, Tensor]:
    """Pair our parameters with the oracle's by order within encoder, decoder and the two convolutions between."""
    pairs = {
        "encoder.conv1": "encoder.conv_in",
        "encoder.downsamples": "encoder.down_blocks",
        "encoder.middle": "encoder.mid_block",
        "encoder.head.0": "encoder.norm_out",
        "encoder.head.2": "encoder.conv_out",
        "conv1": "quant_conv",
        "conv2": "post_quant_conv",
        "decoder.conv1": "decoder.conv_in",
        "decoder.upsamples": "decoder.up_blocks",
        "decoder.middle": "decoder.mid_block",
        "decoder.head.0": "decoder.norm_out",
        "decoder.head.2": "decoder.conv_out",
    }
    weights: dict[str, Tensor] = {}
    theirs_all = oracle.state_dict()
    for ours, theirs in pairs.items():
        mine = {k: v for k, v in vae.model.state_dict().items() if k.startswith(ours + ".")}
        other = {k: v for k, v in theirs_all.items() if k.startswith(theirs + ".")}
        for (key, value), source in zip(mine.items(), in_our_order(other), strict=True):
            assert value.shape == source.shape, key
            weights[key] = source
    return weights


def in_our_order(state: dict[str, Tensor]) -> list[Tensor]:
    """The oracle lists a middle block's attention before its two residual blocks; we list it between them."""
    keys = list(state)
    attention = [key for key in keys if ".attentions." in key]
    if not attention:
        return [state[key] for key in keys]
    first, second = ([key for key in keys if f".resnets.{i}." in key] for i in range(2))
    return [state[key] for key in (*first, *attention, *second)]
