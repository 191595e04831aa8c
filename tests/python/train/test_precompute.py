# SPDX-License-Identifier: Apache-2.0
"""`lightwam data precompute`: the same files by one process, several, and several machines; killed and resumed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers import arm_set
from lightwam import cli
from lightwam.cli.data_precompute import PrecomputeArgs, check
from lightwam.cli.parse import parse
from lightwam.config import LightWAMConfig, read_config
from lightwam.data.frames import read_frames
from lightwam.data.images import join_cameras, scale_pixels
from lightwam.data.latent_store import LatentOptions, LatentStore
from lightwam.data.sources import open_datasets
from lightwam.errors import ConfigError
from lightwam.model import WanVAE
from lightwam.model.checkpoint_folder import save_checkpoint
from lightwam.train.precompute import jobs_of, part_of_environment, vae_fingerprint
from lightwam.train.recipe import read_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WanVAE, LightWAMConfig]:
    """A folder with the arm's data set, robot.json and a random tiny VAE; leave it as it is."""
    root = tmp_path_factory.mktemp("precompute")
    arm_set.write_arm_set(root / "arm")
    document = arm_set.robot_document() | {"vae": {"base_dim": 4}}
    (root / "robot.json").write_text(json.dumps(document))
    config = read_config(root / "robot.json")
    torch.manual_seed(0)
    vae = WanVAE(config.vae).eval()
    save_checkpoint(root / "vae", config, {f"vae.{name}": value for name, value in vae.state_dict().items()})
    return root, vae, config


def words(root: Path, cache: Path, *more: object) -> list[str]:
    given = ("data", "precompute", root / "arm", "--config", root / "robot.json", "--vae", root / "vae")
    return [str(word) for word in (*given, "--cache", cache, "--future-stride", 4, *more)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_vaes_latents_by_one_process_two_and_in_parts(
    made: tuple[Path, WanVAE, LightWAMConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, vae, config = made
    assert cli.main(words(root, tmp_path / "one", "--verify")) == 0
    told = capsys.readouterr().out
    assert "4 files written, 92 rows of 1 data sets are there" in told and "rows/s" in told and "0 damaged" in told
    one = files(tmp_path / "one")
    assert len(one) == 4
    assert cli.main(words(root, tmp_path / "two", "--processes", 2)) == 0 and files(tmp_path / "two") == one
    assert cli.main(words(root, tmp_path / "three", "--part", 1, 2)) == 0 and files(tmp_path / "three") == one
    assert cli.main(words(root, tmp_path / "one")) == 0 and "0 files written" in capsys.readouterr().out
    (data,) = open_datasets([root / "arm"], config)
    store = LatentStore(data, config, tmp_path / "one", vae_fingerprint(vae), LatentOptions(future_stride=4))
    assert store.missing() == []
    with torch.inference_mode():  # the plain VAE of the model is the reference
        for row in (4, 8):
            steps = [min(row + 4 * k, 23) for k in range(config.video.num_frames)]
            images = {n: next(read_frames([s]))[steps] for n, s in data.episodes[0].videos.items()}
            clip = scale_pixels(join_cameras(images, config.cameras)).transpose(0, 1)[None]
            wanted = vae.normalize(vae.encode_moments(clip)[0])[0]
            assert torch.allclose(store.latents(row).float(), wanted, atol=2e-3, rtol=2e-3)
    path = next((tmp_path / "one").iterdir())
    path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    assert cli.main(words(root, tmp_path / "one", "--verify")) == 0
    assert "1 damaged files were computed again" in capsys.readouterr().out and files(tmp_path / "one") == one


def test_a_writer_that_is_killed_costs_nothing(made: tuple[Path, WanVAE, LightWAMConfig], tmp_path: Path) -> None:
    root, _, _ = made
    cache = tmp_path / "cache"
    cache.mkdir()
    command = [sys.executable, "-m", "lightwam.cli", *words(root, cache, "--batch", 1, "--variants", 3)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(path.suffix == ".safetensors" for path in cache.iterdir()) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {name: content for name, content in files(cache).items() if not name.startswith(".")}
    assert cli.main(words(root, cache, "--variants", 3, "--verify")) == 0
    after = files(cache)
    assert len(after) == 12 and kept.items() <= after.items()


def test_parts_cover_all_and_each_begins_elsewhere(
    made: tuple[Path, WanVAE, LightWAMConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _, config = made
    monkeypatch.setattr("lightwam.data.latent_store._JOB", 1)
    (data,) = open_datasets([root / "arm"], config)
    store = LatentStore(data, config, tmp_path, "v")
    parts = [jobs_of([store], (i, 2)) for i in range(2)]
    assert parts == [[(0, (i,)) for i in order] for order in ((0, 1, 2, 3), (2, 3, 0, 1))]
    for wrong in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ConfigError):
            jobs_of([store], wrong)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert part_of_environment() == (3, 4)
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(ConfigError, match="torchrun"):
        part_of_environment()


def test_precision_is_a_part_of_the_identity(made: tuple[Path, WanVAE, LightWAMConfig]) -> None:
    _, vae, _ = made
    names = {vae_fingerprint(vae), vae_fingerprint(vae, "bfloat16")}
    other = WanVAE(dataclasses.replace(vae.config, latent_std=(2.0,) * 16))
    other.load_state_dict(vae.state_dict())
    assert len(names | {vae_fingerprint(other)}) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "nothing to compute"),
        (("--vae", "x"), "give both"),
        (("--texts", "x"), "give all three"),
        (("--vae", "x", "--cache", "y", "--batch", "0"), "--batch is 0"),
        (("--vae", "x", "--cache", "y", "--processes", "2", "--device", "cuda"), "torchrun"),
    ],
)
def test_options_that_do_not_go_together(
    more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "precompute", "d", "--config", "nano", *more]) == 2
    assert message in capsys.readouterr().err


def test_a_recipe_says_what_its_training_reads() -> None:
    """Options that are given change single values of it."""
    args = parse(PrecomputeArgs, "", ["d", "--recipe", "nano_object", "--vae", "v", "--cache", "c", "--variants", "2"])
    recipe = read_recipe("nano_object")
    assert args.windows.future_stride == recipe.loading.future_stride == 4
    assert (args.variants.brightness, args.variants.hue) == (recipe.augmentation.brightness, recipe.augmentation.hue)
    assert args.variants.variants == 2 and args.variants.augmentation_seed == recipe.schedule.seed
    plain = parse(PrecomputeArgs, "", ["d", "--recipe", "nano", "--vae", "v", "--cache", "c"])
    assert plain.variants.variants == 1 and plain.windows.future_stride == 4
    with pytest.raises(ConfigError, match="--config and --recipe: give one of them"):
        check(parse(PrecomputeArgs, "", ["d", "--vae", "v", "--cache", "c"]))
