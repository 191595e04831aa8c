# SPDX-License-Identifier: Apache-2.0
"""A policy with a text encoder that is trained: the zero rows after a text are one row that counts for all."""

from __future__ import annotations

import torch

from helpers.training import tiny_config
from lightwam.config import TextConfig
from lightwam.model import HashedWordsEncoder, LightWAM
from lightwam.train.networks import PolicyNetworks

TEXTS = ["pick up the soup", "pick up the soup and place it in the basket", "wait"]


def test_counts_say_what_the_rows_said() -> None:
    encoder = HashedWordsEncoder(
        TextConfig(kind="hashed_words", length=10, width=8, buckets=64, prompt_template="{task}")
    )
    (plain, mask), (merged, counts) = encoder(TEXTS), encoder(TEXTS, merged=True)
    assert mask.all() and merged.shape[1] == 10 and counts.sum(1).tolist() == [10] * 3
    for rows, kept, count in zip(plain, merged, counts, strict=True):
        assert torch.equal(kept.repeat_interleave(count, 0), rows)
    assert encoder(TEXTS[::2], merged=True).rows.shape[1] == 5


def test_losses_and_gradients_of_merged_texts_are_the_plain_ones() -> None:
    torch.manual_seed(0)
    config = tiny_config()
    networks = PolicyNetworks(LightWAM(config), HashedWordsEncoder(config.text)).double()
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    (height, width), factor = config.latent_size, config.video.spatial_downsample
    batch = {
        "video_latents": torch.randn(3, config.vae.z_dim, 2, height, width).double(),
        "action": torch.randn(3, config.horizon, config.action_dim).double(),
        "proprio": torch.randn(3, config.state_dim).double(),
        "instruction": TEXTS,
    }
    noise = torch.randn(3, config.vae.z_dim, 2, height // factor, width // factor).double()
    found = []
    for merges in (True, False):
        networks.zero_grad()
        assert networks.text_encoder is not None
        plain = {} if merges else networks.text_encoder(TEXTS)._asdict()
        texts = {} if merges else {"context": plain["rows"], "context_mask": plain["mask"]}
        losses = networks({**batch, **texts}, noise, torch.tensor([100.0, 500.0, 900.0]))
        losses["loss"].backward()
        gradients = {name: p.grad for name, p in networks.named_parameters() if p.grad is not None}
        found.append({"loss": losses["loss"].detach(), **gradients})
    assert found[0].keys() == found[1].keys() and found[0]["text_encoder.embedding"].abs().max() > 0
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-9, atol=1e-12, msg=name)
