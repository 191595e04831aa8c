# SPDX-License-Identifier: Apache-2.0
"""Imagined futures are those of validation, of the batches that the trainer makes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from helpers.training import policy_args
from helpers.viz_set import LENGTHS, SIDE
from lightwam import cli
from lightwam.data.sources import open_datasets
from lightwam.export.checkpoint import PolicyCheckpoint
from lightwam.train.distributed import World
from lightwam.train.loader import MicroBatch, joined
from lightwam.train.policy import build_policy
from lightwam.train.validation import future_errors
from lightwam.viz.future import Future, imagine, window_starts
from lightwam.viz.policy import PolicyOnRecordings, open_policy

STEPS = 2


@torch.no_grad()
def test_the_trainers_batches_and_the_psnr_of_validation(seen: Path, tmp_path: Path) -> None:
    checkpoint = open_policy(seen / "checkpoint")
    (tmp_path / "tiny.json").write_text(json.dumps(checkpoint.config.to_dict()))
    args = policy_args(tmp_path, tmp_path / "run", held_out=0.0, future_stride=1, eval_every=0)
    inputs = replace(args.inputs, data=(seen / "data",), cache=None, vae=seen / "checkpoint")
    subject, _ = build_policy(args.resolved(), inputs, World(), args.out)
    networks, vae, data = subject.networks.eval(), subject.vae, subject.data
    assert vae is not None
    networks.localiser = None
    parts = networks.policy, vae, networks.text_encoder, data.statistics, {}
    policy = PolicyOnRecordings(
        PolicyCheckpoint(networks.config, *parts), open_datasets([seen / "data"], checkpoint.config)[0]
    )

    def ready(batch: MicroBatch) -> MicroBatch:
        return networks.with_context(subject.placed(batch))

    samples = data.samples(data.training, windows=True)
    trainers, ours = ready(joined([samples[2, 0], samples[8, 0]])), policy.batch([2, 8], windows=True)
    for name in ("video_latents", "proprio"):
        torch.testing.assert_close(ours[name], trainers[name])
    actions = [networks.policy.predict_actions(batch["video_latents"][:, :, :1], batch["context"],
                                               batch["context_mask"], batch["proprio"])
               for batch in (trainers, ours)]  # fmt: skip
    torch.testing.assert_close(*actions, atol=1e-5, rtol=1e-4)

    inside = samples.inside().tolist()
    assert inside == [0, 1, 2]  # of 7 rows and 3, windows of 5
    expected = future_errors(networks, samples, ready, vae, 3, STEPS)
    futures = imagine(policy, inside, 0, STEPS, lambda _: None)
    mean_F = torch.stack([one.errors_F for one in futures]).mean(0).numpy()
    np.testing.assert_allclose(10 * np.log10(1 / mean_F[1:]), expected[1:], atol=0.01)
    check_pixels(futures[0])


def check_pixels(future: Future) -> None:
    """Errors again, from the uint8 videos that are drawn."""
    assert future.happened.shape == (5, SIDE, 2 * SIDE, 3) and future.decoded.shape == (5, SIDE // 2, SIDE, 3)
    true = future.decoded / 255.0
    for errors, video in ((future.errors_F, future.imagined), (future.still_F, future.decoded[:1])):
        from_pixels = ((video / 255.0 - true) ** 2).mean((1, 2, 3))
        np.testing.assert_allclose(errors, from_pixels, atol=2e-3)
    assert future.errors_F[0] < 1e-9 and future.still_F[0] == 0


def test_windows_follow_one_another_inside_the_episode(seen: Path) -> None:
    checkpoint = open_policy(seen / "checkpoint")
    policy = PolicyOnRecordings(checkpoint, open_datasets([seen / "data"], checkpoint.config)[0])
    long, short = policy.dataset.episodes
    assert window_starts(policy, long, 6) == [0] and window_starts(policy, short, 6) == [LENGTHS[0]]
    longer = replace(long, stop=17)  # windows of 5 rows: 0 to 4, 4 to 8, 8 to 12, 12 to 16
    assert window_starts(policy, longer, 6) == [0, 4, 8, 12] and window_starts(policy, longer, 2) == [0, 12]


def test_a_picture_and_a_video(seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pictures"
    words = ["viz", "future", "--data", str(seen / "data"), "--checkpoint", str(seen / "checkpoint")]
    assert cli.main([*words, "--out", str(out), "--sampling-steps", str(STEPS), "--seed", "3"]) == 0
    told = capsys.readouterr().out
    assert "imagining  100%" in told and "frame 4" in told and "still" in told
    assert sorted(path.name for path in out.iterdir()) == ["future.json", "future_000000.mp4", "future_000000.png"]
    found = json.loads((out / "future.json").read_text())["episodes"]["0"]
    assert len(found["psnr_db_by_frame"]) == 5 and found["windows"][0]["row"] == 0
    with av.open(str(out / "future_000000.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 5 + 2
