# SPDX-License-Identifier: Apache-2.0
"""Short real trainings on a tiny data set: checkpoints load, a resumed run equals an uninterrupted one."""

import copy
import dataclasses
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers.dataset_fixture import TASK, write_v3
from helpers.robots import with_square_cameras
from lightwam.config import AdapterConfig, LightWAMConfig
from lightwam.data.normalize import DatasetStatistics
from lightwam.errors import CheckpointError, DataError
from lightwam.model.attention import AttentionMethod
from lightwam.model.checkpoint_folder import load_checkpoint
from lightwam.train import blind, loop, vae
from lightwam.train.artifacts import learning_rate, load_resume_point


def _tiny() -> LightWAMConfig:
    """The nano policy made tiny: small canvas, two blocks, few channels."""
    nano = LightWAMConfig.nano()
    dit = dataclasses.replace(
        nano.video_dit, hidden_dim=48, ffn_dim=64, num_heads=2, head_dim=24, num_layers=2, text_dim=16,
        adapters=AdapterConfig(layers=(0, 1), dim=8),
    )  # fmt: skip
    tiny = dataclasses.replace(
        nano, video_dit=dit, vae=dataclasses.replace(nano.vae, base_dim=4),
        text=dataclasses.replace(nano.text, width=16, buckets=64),
        action_expert=dataclasses.replace(nano.action_expert, per_layer_dim=24, trunk_dim=32, num_queries=4),
    )  # fmt: skip
    return with_square_cameras(tiny, 32)


@pytest.fixture(scope="module", autouse=True)
def tiny_nano() -> Iterator[None]:
    """Every `LightWAMConfig.nano()` of this module is the tiny one."""
    tiny = _tiny()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LightWAMConfig, "nano", staticmethod(lambda: tiny))
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ and vae/checkpoint in one folder: what policy training starts from."""
    root = tmp_path_factory.mktemp("training")
    write_v3(root / "data")
    args = vae.VAETrainArgs(
        data=(root / "data",), out=root / "vae", cache=root / "cache", steps=3, batch=2, clip_every=3, clip_batch=1,
        held_out=0.3, save_every=3,
    )  # fmt: skip
    assert vae.main(args) == 0
    return root


def _policy_args(root: Path, out: str, **changes: object) -> loop.PolicyTrainArgs:
    args = loop.PolicyTrainArgs(
        data=(root / "data",), vae=root / "vae/checkpoint", out=root / out, cache=root / "cache", steps=4, batch=2,
        video_batch=1, warmup_steps=2, held_out=0.3, future_stride=2, log_every=1, save_every=2,
    )  # fmt: skip
    return dataclasses.replace(args, **changes)  # type: ignore[arg-type]


def test_vae_checkpoint_holds_measured_latents(folders: Path) -> None:
    config, weights = load_checkpoint(folders / "vae/checkpoint")
    assert config.vae.latent_mean != LightWAMConfig.nano().vae.latent_mean
    assert min(config.vae.latent_std) > 0
    assert all(name.startswith("vae.model.") for name in weights)
    assert (folders / "vae/losses.png").stat().st_size > 0


def test_resume_is_exact(folders: Path) -> None:
    assert loop.main(_policy_args(folders, "whole")) == 0
    trainer = loop.PolicyTrainer(_policy_args(folders, "parts"))
    for _ in range(2):
        trainer.train_step()
    trainer.save()
    assert loop.main(_policy_args(folders, "parts")) == 0
    whole, parts = (load_resume_point(folders / out / "resume.pt") for out in ("whole", "parts"))
    assert whole is not None and parts is not None and whole["step"] == parts["step"] == 4
    for name, value in whole["networks"].items():
        assert torch.equal(value, parts["networks"][name]), name
    config, weights = load_checkpoint(folders / "whole/checkpoint")
    assert {name.split(".")[0] for name in weights} == {
        "mot", "state_fusion_action_expert", "proprio_encoder", "text_encoder", "vae",
    }  # fmt: skip
    assert DatasetStatistics.load(folders / "whole/checkpoint/stats.json").num_episodes == 3
    networks = loop.PolicyNetworks(config, 6)
    networks.load_weights(weights)
    assert networks.text_encoder([TASK]).rows.shape == (1, config.text.length, config.text.width)


def test_training_goes_on_from_a_checkpoint(folders: Path) -> None:
    args = _policy_args(folders, "more", init=folders / "whole/checkpoint", steps=1, log_every=1, save_every=1)
    start = loop.PolicyTrainer(args)
    _, weights = load_checkpoint(folders / "whole/checkpoint")
    for name, value in start.networks.weights().items():
        assert torch.equal(value, weights[name]), name


def test_training_data_of_another_robot_is_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set is given"):
        loop.PolicyTrainer(_policy_args(folders, "none", data=()))
    with pytest.raises(DataError, match="action width 6"):
        loop.PolicyTrainer(_policy_args(folders, "none", data=(write_v3(tmp_path / "set", action_width=6),)))


def test_a_missing_vae_is_named(folders: Path) -> None:
    with pytest.raises(CheckpointError, match="train it first"):
        loop.PolicyTrainer(_policy_args(folders, "none", vae=folders / "nowhere"))


def test_damaged_checkpoints(folders: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LightWAMConfig.nano().to_dict()))
    (folder / "model.safetensors").write_bytes(b"\x00" * 50)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(folder)
    (tmp_path / "resume.pt").write_bytes(b"\x00" * 50)
    with pytest.raises(CheckpointError, match="damaged"):
        load_resume_point(tmp_path / "resume.pt")


def test_blind_baseline_drives(folders: Path) -> None:
    from lightwam.sim.policies import load_policy

    assert blind.main(blind.BlindTrainArgs(data=(folders / "data",), out=folders / "blind.npz", steps=20)) == 0
    policy = load_policy(folders / "blind.npz")
    chunk = policy.infer({"state": np.zeros(8, np.float32), "images": {}})
    assert chunk.actions.shape == (16, 7)
    assert set(np.abs(chunk.actions[:, 6])) == {1.0}


def test_learning_rate_warms_up_and_falls_to_one_percent() -> None:
    assert learning_rate(0, 1.0, 10, 100) == pytest.approx(0.1)
    assert learning_rate(9, 1.0, 10, 100) == pytest.approx(1.0)
    assert learning_rate(55, 1.0, 10, 100) == pytest.approx(0.505)
    assert learning_rate(100, 1.0, 10, 100) == pytest.approx(0.01)


def test_nothing_held_out_trains_all_the_same(folders: Path, tmp_path: Path) -> None:
    """A data set of which nothing is held out has no held-out figures; training and saving go on."""
    args = vae.VAETrainArgs(
        data=(folders / "data",), out=tmp_path / "vae", cache=folders / "cache", steps=1, batch=2, held_out=0.0
    )
    assert vae.main(args) == 0
    policy = loop.PolicyTrainArgs(
        data=(folders / "data",), vae=tmp_path / "vae/checkpoint", out=tmp_path / "policy", cache=tmp_path / "cache",
        steps=1, batch=2, video_batch=1, held_out=0.0,
    )  # fmt: skip
    assert loop.main(policy) == 0
    assert (tmp_path / "policy/checkpoint/model.safetensors").is_file()


def test_a_resume_point_of_another_run_is_one_line(folders: Path, tmp_path: Path) -> None:
    args = loop.PolicyTrainArgs(
        data=(folders / "data",), vae=folders / "vae/checkpoint", out=tmp_path, cache=folders / "cache", steps=1
    )
    (tmp_path / "resume.pt").write_bytes((folders / "vae/resume.pt").read_bytes())
    with pytest.raises(CheckpointError, match="is of another run") as caught:
        loop.main(args)
    assert "\n" not in str(caught.value)
    (tmp_path / "resume.pt").write_bytes(b"noise")
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        loop.main(args)
    assert "\n" not in str(caught.value)


def on_no_device(module: nn.Module) -> nn.Module:
    """The module without data. Most operators refuse such a tensor beside one with data, as a GPU would."""
    return copy.deepcopy(module).to("meta")


@pytest.mark.parametrize("attention", ["sdpa", "softmax", "kernels"])
def test_a_step_computes_where_the_networks_are(
    folders: Path, attention: AttentionMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no device without data
    trainer = loop.PolicyTrainer(_policy_args(folders, "elsewhere", attention=attention))
    networks = on_no_device(trainer.networks)
    assert isinstance(networks, loop.PolicyNetworks) and networks.device.type == "meta"
    losses = loop.training_losses(networks, trainer.data, torch.arange(2), torch.arange(1), trainer.args)
    assert set(losses) == {"loss", "loss_action", "loss_video", "loss_localisation"}
    assert {loss.device.type for loss in losses.values()} == {"meta"}
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in networks.localiser.parameters())  # type: ignore[union-attr]


def test_a_step_of_the_vae_computes_where_it_is(folders: Path) -> None:
    args = vae.VAETrainArgs(data=(folders / "data",), out=folders / "elsewhere", cache=folders / "cache", held_out=0.3)
    trainer = vae.VAETrainer(args, LightWAMConfig.nano())
    source, networks = trainer.source, on_no_device(trainer.networks)
    source.device, mean_image = torch.device("meta"), source.mean_image.to("meta")
    for video, located in (source.images(np.arange(2)), source.clips(np.arange(1))):
        losses = vae.vae_losses(*networks, video, located, mean_image, args, None)  # type: ignore[misc]
        assert {loss.device.type for loss in losses.values()} == {"meta"} and "localisation" in losses
        losses["loss"].backward()  # type: ignore[no-untyped-call]


def test_a_run_resumes_where_there_is_no_gpu(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume point whose tensors were saved from a GPU is read into the processor's memory."""
    trainer = loop.PolicyTrainer(_policy_args(folders, "moved", steps=2))
    trainer.train_step()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:3")
        trainer.save()
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(folders / "moved/resume.pt", weights_only=True)
    resumed = loop.PolicyTrainer(_policy_args(folders, "moved", steps=2))
    assert resumed.step == 1
    for one, other in zip(trainer.networks.parameters(), resumed.networks.parameters(), strict=True):
        assert torch.equal(one, other)
    resumed.train_step()
