# SPDX-License-Identifier: Apache-2.0
"""The causal VAE against the published implementation's numbers (base width 8, z 4)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.model_golden import load_json, load_tensors, relative_error
from lightwam.config import VAEConfig
from lightwam.errors import ConfigError
from lightwam.model.vae import WanVAE

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_tensors("golden_vae")


@pytest.fixture(scope="module")
def vae(golden: dict[str, Tensor]) -> WanVAE:
    settings = load_json("golden_vae")
    config = VAEConfig(base_dim=8, z_dim=4, latent_mean=tuple(settings["mean"]), latent_std=tuple(settings["std"]))
    model = WanVAE(config)
    model.load_state_dict({key[2:]: value for key, value in golden.items() if key.startswith("w.")})
    return model.requires_grad_(False)


def test_encodes_frame_and_clip(vae: WanVAE, golden: dict[str, Tensor]) -> None:
    assert relative_error(vae.encode(golden["in.frame"]), golden["out.frame_latent"]) < TOLERANCE
    assert relative_error(vae.encode(golden["in.clip"]), golden["out.clip_latent"]) < TOLERANCE


@pytest.mark.parametrize("name", ["frame", "clip"])
def test_decodes(vae: WanVAE, golden: dict[str, Tensor], name: str) -> None:
    latent = golden[f"out.{name}_latent"]
    assert relative_error(vae.decode(latent), golden[f"out.{name}_decoded"]) < TOLERANCE
    assert relative_error(vae.decode(latent, clamp=False), golden[f"out.{name}_decoded_unclamped"]) < TOLERANCE


def test_every_encoder_stage(vae: WanVAE, golden: dict[str, Tensor]) -> None:
    encoder = vae.model.encoder
    stages: dict[str, nn.Module] = {"stage.enc_conv1": encoder.conv1}
    stages |= {f"stage.enc_down.{i}": layer for i, layer in enumerate(encoder.downsamples)}
    stages |= {f"stage.enc_mid.{i}": layer for i, layer in enumerate(encoder.middle)}
    assert set(stages) == {key for key in golden if key.startswith("stage.")}
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _m, _i, output, name=name: seen.__setitem__(name, output))
        for name, layer in stages.items()
    ]
    vae.encode(golden["in.frame"])
    for hook in hooks:
        hook.remove()
    for name in stages:
        assert relative_error(seen[name], golden[name]) < TOLERANCE, name


def test_latents_depend_on_no_later_frame(vae: WanVAE, golden: dict[str, Tensor]) -> None:
    clip = golden["in.clip"]
    whole = vae.encode(clip)
    torch.testing.assert_close(vae.encode(clip[:, :, :5]), whole[:, :, :2])
    torch.testing.assert_close(vae.encode(clip[:, :, :1]), whole[:, :, :1])


def test_samples_of_a_batch_are_independent(vae: WanVAE, golden: dict[str, Tensor]) -> None:
    clips = torch.cat([golden["in.clip"], golden["in.clip"].flip(-1)])
    torch.testing.assert_close(vae.encode(clips)[:1], vae.encode(clips[:1]), rtol=1e-5, atol=1e-5)


def test_trains_from_moments(golden: dict[str, Tensor]) -> None:
    vae = WanVAE(VAEConfig(base_dim=4, z_dim=2, latent_mean=(0.0, 0.0), latent_std=(1.0, 1.0)))
    mean, log_variance = vae.encode_moments(golden["in.clip"][:, :, :5, :16, :16])
    video = vae.decode_raw(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
    assert video.shape == (1, 3, 5, 16, 16)
    video.square().mean().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in vae.parameters())


def test_full_size_keys_and_shapes() -> None:
    reference = {key: tuple(shape) for key, (shape, _) in load_json("reference_keys")["vae"].items()}
    with torch.device("meta"):
        vae = WanVAE(VAEConfig())
    assert {key: tuple(value.shape) for key, value in vae.state_dict().items()} == reference


@pytest.mark.parametrize("shape", [(1, 3, 4, 32, 32), (1, 3, 1, 30, 32), (1, 1, 1, 32, 32), (3, 1, 32, 32)])
def test_refuses_other_shapes(vae: WanVAE, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="video has shape"):
        vae.encode(torch.zeros(shape))
