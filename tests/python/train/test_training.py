# SPDX-License-Identifier: Apache-2.0
"""Short real trainings of the VAE and of the blind baseline on a tiny data set."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers.built_once import BuiltOnce
from helpers.training import changed, fill, tiny_config, vae_args
from lightwam.cli import train
from lightwam.errors import CheckpointError
from lightwam.model.checkpoint_folder import load_checkpoint
from lightwam.train import vae_losses
from lightwam.train.options import BlindTrainArgs, Inputs
from lightwam.train.run import load_resume_point
from lightwam.train.vae import VAETrainer


@pytest.fixture(scope="session")
def folders(built_once: BuiltOnce) -> Path:
    """A data set, and a VAE trained for three steps."""

    return built_once("training", fill)


def test_vae_checkpoint_holds_measured_latents(folders: Path) -> None:
    config, weights = load_checkpoint(folders / "vae/checkpoint")
    assert config.vae.latent_mean != tiny_config().vae.latent_mean
    assert min(config.vae.latent_std) > 0
    assert all(name.startswith("vae.model.") for name in weights)
    assert (folders / "vae/losses.png").stat().st_size > 0


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
    assert train.main(changed(BlindTrainArgs(inputs=inputs, out=tmp_path / "blind.npz"), steps=20, batch=8)) == 0
    policy = load_policy(tmp_path / "blind.npz", tiny_config().robot)
    chunk = policy.infer({"state": np.zeros(8, np.float32), "images": {}})
    assert chunk.actions.shape == (16, 7)
    assert set(np.abs(chunk.actions[:, 6])) == {1.0}


def on_no_device(module: nn.Module) -> nn.Module:
    """The module without data. Most operators refuse such a tensor beside one with data, as a GPU would."""
    return copy.deepcopy(module).to("meta")


def test_a_step_of_the_vae_computes_where_it_is(folders: Path, tmp_path: Path) -> None:
    trainer = VAETrainer(vae_args(folders, tmp_path))
    source, networks = trainer.source, on_no_device(trainer.networks)
    source.device, mean_image = torch.device("meta"), source.mean_image.to("meta")
    for video, located in (source.images(np.arange(2)), source.clips(np.arange(1))):
        losses = vae_losses.vae_losses(*networks, video, located, mean_image, trainer.args.losses, None)  # type: ignore[misc]
        assert {loss.device.type for loss in losses.values()} == {"meta"} and "localisation" in losses
        losses["loss"].backward()  # type: ignore[no-untyped-call]
