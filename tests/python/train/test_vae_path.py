# SPDX-License-Identifier: Apache-2.0
"""The 2-D path is the VAE's own function on frames and clips, gradients included (float64: no rounding in the way)."""

from dataclasses import replace

import pytest
import torch

from lightwam.config import LightWAMConfig
from lightwam.model.vae import WanVAE
from lightwam.train.vae_path import decode_raw, encode_moments


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


def _random_vae() -> WanVAE:
    torch.manual_seed(0)
    vae = WanVAE(replace(LightWAMConfig.nano().vae, base_dim=4))
    for name, parameter in vae.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=(1.0 / parameter[0].numel()) ** 0.5)
    return vae.double()


@pytest.mark.parametrize("frames", [1, 5])
def test_clips_match_the_model(frames: int) -> None:
    vae = _random_vae()
    video = torch.rand(2, 3, frames, 16, 32, dtype=torch.float64) * 2 - 1
    mean, log_variance = encode_moments(vae, video)
    expected_mean, expected_log_variance = vae.encode_moments(video)
    assert _relative(mean, expected_mean) < 1e-7
    assert _relative(log_variance, expected_log_variance) < 1e-7
    decoded, expected = decode_raw(vae, mean), vae.decode_raw(expected_mean)
    assert _relative(decoded, expected) < 1e-7

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        vae.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in vae.named_parameters() if p.grad is not None}

    ours, theirs = gradients((decoded - video).square().mean()), gradients((expected - video).square().mean())
    compared = [name for name, gradient in theirs.items() if gradient.abs().max() > 0]
    assert len(compared) > 100
    for name in compared:
        assert _relative(ours[name], theirs[name]) < 1e-6, name
