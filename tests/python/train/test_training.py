# SPDX-License-Identifier: Apache-2.0
"""Short real trainings on a tiny data set: checkpoints load, a resumed run equals an uninterrupted one."""

import copy
import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers.built_once import BuiltOnce
from helpers.dataset_fixture import TASK, write_v3
from helpers.training import changed, fill, policy_args, tiny_config, vae_args
from lightwam.cli import train
from lightwam.data.normalize import read_statistics
from lightwam.errors import CheckpointError, ConfigError, DataError
from lightwam.model.attention import AttentionMethod
from lightwam.model.checkpoint_folder import load_checkpoint
from lightwam.train import vae_losses
from lightwam.train.options import BlindTrainArgs, Inputs, Schedule
from lightwam.train.policy import PolicyTrainer
from lightwam.train.policy_losses import PolicyNetworks, training_losses
from lightwam.train.run import learning_rate, load_resume_point
from lightwam.train.vae import VAETrainer


@pytest.fixture(scope="session")
def folders(built_once: BuiltOnce) -> Path:
    """What policy training starts from, and in whole/ a run of four steps."""

    def build(root: Path) -> None:
        fill(root)
        assert train.main(policy_args(root, root / "whole")) == 0

    return built_once("training", build)


def test_vae_checkpoint_holds_measured_latents(folders: Path) -> None:
    config, weights = load_checkpoint(folders / "vae/checkpoint")
    assert config.vae.latent_mean != tiny_config().vae.latent_mean
    assert min(config.vae.latent_std) > 0
    assert all(name.startswith("vae.model.") for name in weights)
    assert (folders / "vae/losses.png").stat().st_size > 0


def test_resume_is_exact(folders: Path, tmp_path: Path) -> None:
    trainer = PolicyTrainer(policy_args(folders, tmp_path))
    for _ in range(2):
        trainer.train_step()
    trainer.save()
    assert train.main(policy_args(folders, tmp_path)) == 0
    whole, parts = (load_resume_point(out / "resume.pt") for out in (folders / "whole", tmp_path))
    assert whole is not None and parts is not None and whole["step"] == parts["step"] == 4
    for part in ("networks", "average"):
        for name, value in whole[part].items():
            assert torch.equal(value, parts[part][name]), name
    config, weights = load_checkpoint(folders / "whole/checkpoint")
    assert {name.split(".")[0] for name in weights} == {
        "mot", "state_fusion_action_expert", "proprio_encoder", "text_encoder", "vae",
    }  # fmt: skip
    for out in (folders / "whole", tmp_path):
        statistics = read_statistics(out / "checkpoint/stats.json")
        assert statistics["num_episodes"] == 3 and statistics["instructions"] == [TASK]
    networks = PolicyNetworks(config, 6)
    networks.load_weights(weights)
    assert networks.text_encoder([TASK]).rows.shape == (1, config.text.length, config.text.width)


def test_the_vae_resumes_exactly_and_stops_where_it_is_told(folders: Path, tmp_path: Path) -> None:
    for stop_after in (1, None):  # save_every is 3: the first run saves where it stops
        assert train.main(vae_args(folders, tmp_path, stop_after=stop_after)) == 0
        state = load_resume_point(tmp_path / "resume.pt")
        assert state is not None and state["step"] == (stop_after or 3)
    whole = load_resume_point(folders / "vae/resume.pt")
    assert whole is not None and all(torch.equal(whole["networks"][n], v) for n, v in state["networks"].items())


def test_curves_of_clips_alone_hold_no_loss(folders: Path, tmp_path: Path) -> None:
    """Losses of clips are not reported: where every step is on clips, a point holds the time alone."""
    trainer = VAETrainer(vae_args(folders, tmp_path, clip_every=1, steps=1, log_every=1))
    trainer.run()
    curves = {name for name in trainer.curves.history if not name.startswith("held_out/")}
    assert curves == {"seconds_a_step"} and len(trainer.curves.history["seconds_a_step"]) == 1


def test_training_goes_on_from_a_checkpoint(folders: Path, tmp_path: Path) -> None:
    start = PolicyTrainer(policy_args(folders, tmp_path, init=folders / "whole/checkpoint"))
    _, weights = load_checkpoint(folders / "whole/checkpoint")
    for name, value in start.networks.weights().items():
        assert torch.equal(value, weights[name]), name


def test_training_data_of_another_robot_is_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set is given"):
        PolicyTrainer(policy_args(folders, tmp_path, data=()))
    other = write_v3(tmp_path / "set", action_width=6)
    with pytest.raises(DataError, match="action width 6"):
        PolicyTrainer(policy_args(folders, tmp_path, data=(other,)))


def test_another_text_encoder_is_an_error_before_any_work(folders: Path, tmp_path: Path) -> None:
    document = tiny_config().to_dict()
    document["text"]["kind"] = "umt5"
    (tmp_path / "umt5.json").write_text(json.dumps(document))
    args = policy_args(folders, tmp_path / "out", config=str(tmp_path / "umt5.json"), cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"text\.kind is 'umt5'"):
        PolicyTrainer(args)
    assert not (tmp_path / "cache").exists()


def test_the_grippers_error_is_of_its_column(folders: Path, tmp_path: Path) -> None:
    trainer = PolicyTrainer(policy_args(folders, tmp_path))
    robot = trainer.config.robot
    assert trainer.validate()["held_out/gripper_mse"] < 100
    trainer.data.action_NHA[..., 1] = 100.0
    assert trainer.validate()["held_out/gripper_mse"] < 100
    assert robot.gripper is not None
    elsewhere = dataclasses.replace(robot, gripper=dataclasses.replace(robot.gripper, dimension=robot.action[1].name))
    trainer.average.policy.config = dataclasses.replace(trainer.config, robot=elsewhere)
    assert trainer.validate()["held_out/gripper_mse"] > 5000
    trainer.average.policy.config = trainer.config.with_robot(dataclasses.replace(robot, gripper=None))
    assert "held_out/gripper_mse" not in trainer.validate()


def test_a_missing_vae_is_named(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="train it first"):
        PolicyTrainer(policy_args(folders, tmp_path, vae=folders / "nowhere"))


def test_damaged_checkpoints(folders: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny_config().to_dict()))
    (folder / "model.safetensors").write_bytes(b"\x00" * 50)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(folder)
    (tmp_path / "resume.pt").write_bytes(b"\x00" * 50)
    with pytest.raises(CheckpointError, match="damaged"):
        load_resume_point(tmp_path / "resume.pt")


def test_blind_baseline_drives(folders: Path, tmp_path: Path) -> None:
    from lightwam.sim.policies import load_policy

    inputs = Inputs(data=(folders / "data",), config=str(folders / "tiny.json"))
    assert train.main(changed(BlindTrainArgs(inputs=inputs, out=tmp_path / "blind.npz"), steps=20)) == 0
    policy = load_policy(tmp_path / "blind.npz", tiny_config().robot)
    chunk = policy.infer({"state": np.zeros(8, np.float32), "images": {}})
    assert chunk.actions.shape == (16, 7)
    assert set(np.abs(chunk.actions[:, 6])) == {1.0}


def test_learning_rate_warms_up_and_falls_to_one_percent() -> None:
    schedule = Schedule(steps=100, batch=1, peak_learning_rate=1.0, warmup_steps=10)
    assert learning_rate(0, schedule) == pytest.approx(0.1)
    assert learning_rate(9, schedule) == pytest.approx(1.0)
    assert learning_rate(55, schedule) == pytest.approx(0.505)
    assert learning_rate(100, schedule) == pytest.approx(0.01)


def test_nothing_held_out_trains_all_the_same(folders: Path, tmp_path: Path) -> None:
    """A data set of which nothing is held out has no held-out figures; training and saving go on."""
    assert train.main(vae_args(folders, tmp_path / "vae", steps=1, held_out=0.0)) == 0
    policy = policy_args(
        folders, tmp_path / "policy", vae=tmp_path / "vae/checkpoint", cache=tmp_path / "cache", steps=1, held_out=0.0
    )
    assert train.main(policy) == 0
    assert (tmp_path / "policy/checkpoint/model.safetensors").is_file()


def test_a_resume_point_of_another_run_is_one_line(folders: Path, tmp_path: Path) -> None:
    args = policy_args(folders, tmp_path)
    (tmp_path / "resume.pt").write_bytes((folders / "vae/resume.pt").read_bytes())
    with pytest.raises(CheckpointError, match="is of another run") as caught:
        train.main(args)
    assert "\n" not in str(caught.value)
    (tmp_path / "resume.pt").write_bytes(b"noise")
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        train.main(args)
    assert "\n" not in str(caught.value)


def on_no_device(module: nn.Module) -> nn.Module:
    """The module without data. Most operators refuse such a tensor beside one with data, as a GPU would."""
    return copy.deepcopy(module).to("meta")


@pytest.mark.parametrize("attention", ["sdpa", "softmax", "kernels"])
def test_a_step_computes_where_the_networks_are(
    folders: Path, tmp_path: Path, attention: AttentionMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no device without data
    trainer = PolicyTrainer(policy_args(folders, tmp_path, attention=attention))
    networks = on_no_device(trainer.networks)
    assert isinstance(networks, PolicyNetworks) and networks.device.type == "meta"
    losses = training_losses(networks, trainer.data, torch.arange(2), torch.arange(1), trainer.args.losses)
    assert set(losses) == {"loss", "loss_action", "loss_video", "loss_localisation"}
    assert {loss.device.type for loss in losses.values()} == {"meta"}
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in networks.localiser.parameters())  # type: ignore[union-attr]


def test_a_step_of_the_vae_computes_where_it_is(folders: Path, tmp_path: Path) -> None:
    trainer = VAETrainer(vae_args(folders, tmp_path))
    source, networks = trainer.source, on_no_device(trainer.networks)
    source.device, mean_image = torch.device("meta"), source.mean_image.to("meta")
    for video, located in (source.images(np.arange(2)), source.clips(np.arange(1))):
        losses = vae_losses.vae_losses(*networks, video, located, mean_image, trainer.args.losses, None)  # type: ignore[misc]
        assert {loss.device.type for loss in losses.values()} == {"meta"} and "localisation" in losses
        losses["loss"].backward()  # type: ignore[no-untyped-call]


def test_a_run_resumes_where_there_is_no_gpu(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume point whose tensors were saved from a GPU is read into the CPU's memory."""
    trainer = PolicyTrainer(policy_args(folders, tmp_path, steps=2))
    trainer.train_step()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:3")
        trainer.save()
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "resume.pt", weights_only=True)
    resumed = PolicyTrainer(policy_args(folders, tmp_path, steps=2))
    assert resumed.step == 1
    for one, other in zip(trainer.networks.parameters(), resumed.networks.parameters(), strict=True):
        assert torch.equal(one, other)
    resumed.train_step()
