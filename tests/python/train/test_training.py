# SPDX-License-Identifier: Apache-2.0
"""Short real trainings of the VAE and of the blind baseline on a tiny data set."""

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.training import changed, tiny_config, vae_args
from lightwam.cli import train
from lightwam.data.dataset import Episode
from lightwam.errors import CheckpointError, DataError, RunFolderError
from lightwam.model.checkpoint_folder import load_checkpoint
from lightwam.train import vae_losses
from lightwam.train.blind import instructed
from lightwam.train.distributed import World
from lightwam.train.options import BlindTrainArgs, Inputs
from lightwam.train.run_folder import saves_of
from lightwam.train.state import TrainingState
from lightwam.train.vae import VAENetworks, VAETraining, train_vae
from lightwam.train.vae_data import _check_located


def test_vae_checkpoint_holds_measured_latents(folders: Path) -> None:
    config, weights = load_checkpoint(folders / "vae/checkpoint")
    assert config.vae.latent_mean != tiny_config().vae.latent_mean
    assert min(config.vae.latent_std) > 0
    assert all(name.startswith("vae.model.") for name in weights)
    assert (folders / "vae/losses.png").stat().st_size > 0


def state_of(out: Path) -> TrainingState:
    """The newest save."""
    return TrainingState.read(saves_of(out)[-1].folder / "state.pt")


def test_the_vae_resumes_exactly_and_stops_where_it_is_told(folders: Path, tmp_path: Path) -> None:
    for stop_after in (1, None):  # save_every is 3: the first run saves where it stops
        assert train.main(vae_args(folders, tmp_path, stop_after=stop_after)) == 0
        state = state_of(tmp_path)
        assert state.step == (stop_after or 3)
    whole = state_of(folders / "vae")
    assert all(torch.equal(whole.weights[n], v) for n, v in state.weights.items())
    assert set(state.weights) > {"localiser.body.0.weight"}
    with pytest.raises(RunFolderError, match=r"recipe.schedule.batch is 3 instead of 2.*--allow-changed"):
        train.main(vae_args(folders, tmp_path, batch=3))


def test_curves_of_clips_alone_hold_their_loss_only(folders: Path, tmp_path: Path) -> None:
    trainer = train_vae(vae_args(folders, tmp_path, clip_every=1, steps=1, log_every=1))
    assert trainer.curves is not None
    curves = {name for name in trainer.curves.history if not name.startswith("held_out/")}
    assert curves == {"loss", "grad_norm", "lr", "seconds_a_step", "samples_per_second"}


def test_frames_come_from_disk_as_they_are(folders: Path) -> None:
    """Rows of any shape, across episodes, in any order and twice; nothing of them stays in memory."""
    training = VAETraining(vae_args(folders, folders / "none"), World())
    source = training.source
    frames = np.concatenate([cache.load(episode) for cache, episode in source._places])
    rows = np.random.default_rng(0).integers(len(frames), size=(5, 4))
    np.testing.assert_array_equal(source._frames(rows), frames[rows])
    assert sum(value.nbytes for value in vars(source).values() if isinstance(value, np.ndarray)) < frames.nbytes / 8
    assert source.mean_image.shape == (3, 32, 64) and len(source.identities) == 1


def test_data_sets_that_locate_different_objects(folders: Path, tmp_path: Path) -> None:
    located = [np.zeros((3, 4), np.float32), np.zeros((2, 0), np.float32)]
    with pytest.raises(DataError, match="a notes 2, b notes 0"):
        _check_located([Path("a"), Path("b")], located)


def test_damaged_checkpoints(folders: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny_config().to_dict()))
    (folder / "model.safetensors").write_bytes(b"\x00" * 50)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(folder)


def test_blind_baseline_drives(folders: Path, tmp_path: Path) -> None:
    from lightwam.sim.policies import load_policy

    inputs = Inputs(data=(folders / "data",), config=str(folders / "tiny.json"))
    assert train.main(changed(BlindTrainArgs(inputs=inputs, out=tmp_path / "blind.npz"), steps=20, batch=8)) == 0
    policy = load_policy(tmp_path / "blind.npz", tiny_config().robot)
    chunk = policy.infer({"state": np.zeros(8, np.float32), "images": {}})
    assert chunk.actions.shape == (16, 7)
    assert set(np.abs(chunk.actions[:, 6])) == {1.0}


def test_the_blind_baseline_knows_which_instruction_a_row_has() -> None:
    parts = [Episode(0, 0, 2, "right", {}), Episode(1, 2, 3, "left", {})], [Episode(0, 0, 2, "zuo@left", {})]
    texts, told = instructed([SimpleNamespace(episodes=episodes) for episodes in parts])  # type: ignore[misc]
    assert texts == ["left", "right"]
    assert told.tolist() == [[0, 1], [0, 1], [1, 0], [1, 0], [1, 0]]
    texts, told = instructed([SimpleNamespace(episodes=parts[1])])  # type: ignore[list-item]
    assert texts == [] and told.shape == (2, 0)


def on_no_device(module: nn.Module) -> nn.Module:
    """The module without data. Most operators refuse such a tensor beside one with data, as a GPU would."""
    return copy.deepcopy(module).to("meta")


def test_frames_of_the_vae_are_augmented_by_seed_update_and_place(folders: Path, tmp_path: Path) -> None:
    """Pixels change alike on every run and otherwise in every update; the objects' places and plain frames stay."""

    def drawn(**how: float) -> list[Any]:
        return [batch[0] for batch in VAETraining(vae_args(folders, tmp_path, **how), World()).updates(0, 2)]

    plain, once, again = drawn(), drawn(brightness=0.5), drawn(brightness=0.5)
    for first, second, untouched in zip(once, again, plain, strict=True):
        assert torch.equal(first["video"], second["video"]) and torch.equal(first["located"], untouched["located"])
        assert torch.equal(first["plain"], untouched["video"])
        for clip, before in zip(first["video"], first["plain"], strict=True):
            wide = clip.shape[-1] // 2
            assert (clip - before).abs().max() > 0.01
            for camera in (factors_of(clip, before, slice(None, wide)), factors_of(clip, before, slice(wide, None))):
                assert camera.std() < 1e-4 and 0.5 <= camera.mean() <= 1.5  # one factor for a camera's rectangle
    assert not torch.equal(once[0]["video"] - once[0]["plain"], once[1]["video"] - once[1]["plain"])


def factors_of(clip: Tensor, plain: Tensor, columns: slice) -> Tensor:
    """By how much each pixel of these columns became brighter, where it neither was black nor is white."""
    bright, before = clip[..., columns] + 1, plain[..., columns] + 1
    return (bright / before)[(before > 0.1) & (bright < 1.999)]


def test_a_run_without_augmentation_of_the_vae_keeps_its_fingerprint(folders: Path, tmp_path: Path) -> None:
    fingerprint = VAETraining(vae_args(folders, tmp_path), World()).fingerprint()
    assert "augmentation" not in str(fingerprint)
    assert "augmentation" in str(VAETraining(vae_args(folders, tmp_path, hue=0.1), World()).fingerprint())


def test_pixels_are_weighed_by_the_plain_frames(folders: Path, tmp_path: Path) -> None:
    """Where the plain frame is the mean image all pixels weigh the same, however the augmented one looks."""
    training = VAETraining(vae_args(folders, tmp_path), World())
    video, located = training.source.images(training.source.training[:1])
    networks, mean = training.networks, training.source.mean_image
    plain = mean[None, :, None].expand_as(video)

    def reconstruction(weight: float) -> float:
        weights = dataclasses.replace(training.args.losses, foreground_weight=weight)
        torch.manual_seed(0)
        losses = vae_losses.vae_losses(networks.vae, None, video, located, mean, weights, None, plain)
        return float(losses["reconstruction"].detach())

    assert reconstruction(8.0) == reconstruction(0.0)


def test_a_step_of_the_vae_computes_where_it_is(folders: Path, tmp_path: Path) -> None:
    training = VAETraining(vae_args(folders, tmp_path), World())
    source, networks = training.source, on_no_device(training.networks)
    assert isinstance(networks, VAENetworks)
    source.device, mean_image = torch.device("meta"), source.mean_image.to("meta")
    for video, located in (source.images(np.arange(2)), source.clips(np.arange(1))):
        losses = vae_losses.vae_losses(
            networks.vae, networks.localiser, video, located, mean_image, training.args.losses, None
        )
        assert {loss.device.type for loss in losses.values()} == {"meta"} and "localisation" in losses
        losses["loss"].backward()  # type: ignore[no-untyped-call]
