# SPDX-License-Identifier: Apache-2.0
"""What validation measures, computed again in NumPy."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from helpers.training import policy_args
from lightwam.train.distributed import World
from lightwam.train.loader import MicroBatch, joined
from lightwam.train.policy import build_policy
from lightwam.train.validation import future_errors

STEPS, COUNT = 3, 2


@torch.no_grad()
def test_psnr_of_imagined_futures(folders: Path, tmp_path: Path) -> None:
    args = policy_args(folders, tmp_path, future_stride=1)
    subject, _ = build_policy(args.resolved(), args.inputs, World(), args.out)
    networks, vae = subject.networks.eval(), subject.vae
    assert vae is not None
    policy, samples = networks.policy, subject.data.samples(subject.data.training, windows=True)

    def ready(batch: MicroBatch) -> MicroBatch:
        return networks.with_context(subject.placed(batch))

    inside = [place for place in range(len(samples)) if not samples[place, 0]["image_is_pad"].any()]
    assert samples.inside().tolist() == inside and COUNT < len(inside) < len(samples), inside
    found = future_errors(networks, samples, ready, vae, COUNT, STEPS)

    shift, factor = networks.config.flow_matching.shift, networks.config.video.spatial_downsample
    u = np.linspace(1, 0, STEPS + 1)
    sigma = shift * u / (1 + (shift - 1) * u)
    errors = []
    for number, place in enumerate(inside[:: len(inside) // COUNT][:COUNT]):
        batch = ready(joined([samples[place, 0]]))
        true = batch["video_latents"].numpy()
        true = true.reshape(*true.shape[:3], true.shape[3] // factor, factor, -1, factor).mean((4, 6))
        x = torch.randn(true.shape, generator=torch.Generator().manual_seed(number)).numpy()
        x[:, :, 0] = true[:, :, 0]
        for now, then in pairwise(sigma):
            rows = batch["context"], batch["context_mask"], batch["proprio"]
            time = torch.tensor([now * networks.config.flow_matching.num_train_timesteps]).float()
            flow = policy.predict_flow_lowres(torch.from_numpy(x), time, *rows).numpy()
            x[:, :, 1:] += np.float32(then - now) * flow[:, :, 1:]
        frames = [(vae.decode(torch.from_numpy(one)).numpy().astype(np.float64) + 1) / 2 for one in (x, true)]
        assert all(one.min() >= 0 and one.max() <= 1 for one in frames)
        errors.append(((frames[0] - frames[1]) ** 2).mean((0, 1, 3, 4)))
    mean_F = np.mean(errors, 0)
    assert len(found) == networks.config.video.num_frames == len(mean_F) and mean_F[1:].min() > 0
    np.testing.assert_allclose(found[1:], 10 * np.log10(1 / mean_F[1:]), atol=0.01)
    assert found[0] > 90  # the first frame is given
