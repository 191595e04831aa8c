# SPDX-License-Identifier: Apache-2.0
"""The recipe `real_robot` from HDF5 episodes to a resumed run, by the commands of docs/guides/your-own-data.md."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightwam import cli
from lightwam.config import read_config
from lightwam.data.normalize import read_statistics
from lightwam.model import WanVAE
from lightwam.model.checkpoint_folder import load_checkpoint, save_checkpoint
from lightwam.train.recipe import read_recipe
from lightwam.train.state import TrainingState

h5py = pytest.importorskip("h5py")
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
TASKS = ("lift the pot", "close the lid")
LENGTHS = (36, 40, 37, 20)  # the last one is shorter than a window
WIDTH = 16  # of a text row


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def png(episode: int, row: int, camera: int) -> np.ndarray:
    """A gradient with a spot that moves, as an encoded image."""
    y, x = np.mgrid[0:48, 0:64]
    image = np.stack([3 * x + 20, 2 * (x + y) + 10 * camera, 200 - 3 * y], -1).astype(np.uint8)
    left = (row + 5 * episode) % 56
    image[8:16, left : left + 8] = 255
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return np.frombuffer(data.getvalue(), np.uint8)


def write_robot_set(root: Path) -> Path:
    """Two arms of seven numbers; an action is the next state."""
    root.mkdir()
    for episode, rows in enumerate(LENGTHS):
        time = np.arange(rows + 1)[:, None] / 20
        rng = np.random.default_rng(episode)
        joints = rng.uniform(0.3, 0.8, 14) * np.sin(
            2 * np.pi * rng.uniform(0.5, 1.5, 14) * time + rng.uniform(0, 6, 14)
        )
        joints[:, [6, 13]] = np.abs(time - 1 - 0.1 * episode) > 0.4
        with h5py.File(root / f"episode_{episode}.hdf5", "w") as file:
            file.attrs["task"] = TASKS[episode % 2]
            file["observation/state"], file["action"] = joints[:-1].astype(np.float32), joints[1:].astype(np.float32)
            for number, camera in enumerate(CAMERAS):
                place = f"observation/images/{camera}"
                images = file.create_dataset(place, (rows,), h5py.vlen_dtype(np.uint8))
                for row in range(rows):
                    images[row] = png(episode, row, number)
    return root


def write_policy(path: Path) -> None:
    """The recipe's policy, every network tiny, on a canvas of 96 x 64."""
    places = ((0, 0, 64, 64), (64, 0, 32, 32), (64, 32, 32, 32))
    robot = read_config("robotwin").to_dict()["robot"]
    for camera, place in zip(robot["cameras"], places, strict=True):
        camera.update(zip(("top", "left", "height", "width"), place, strict=True))
    dit = {"hidden_dim": 48, "ffn_dim": 64, "num_heads": 2, "head_dim": 24, "num_layers": 2, "text_dim": WIDTH,
           "freq_dim": 16, "adapters": {"layers": [0, 1], "dim": 8}, "lora": {"layers": [0, 1], "rank": 2}}  # fmt: skip
    document = {
        "base": "robotwin", "robot": robot, "video_dit": dit, "vae": {"base_dim": 4},
        "action_expert": {"per_layer_dim": 24, "trunk_dim": 32, "num_queries": 4}, "text": {"width": WIDTH},
    }  # fmt: skip
    path.write_text(json.dumps(document))


def write_texts(folder: Path, config_file: Path) -> None:
    """Rows of the instructions, as the published precompute writes them."""
    folder.mkdir()
    text = read_config(config_file).text
    for task in TASKS:
        prompt = text.prompt_template.format(task=task)
        mask = torch.arange(text.length) < 7
        name = f"{hashlib.sha256(prompt.encode()).hexdigest()}.t5_len{text.length}.wan21t2v13b.pt"
        torch.save({"context": torch.randn(text.length, WIDTH).bfloat16(), "mask": mask}, folder / name)


def test_from_hdf5_episodes_to_a_resumed_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("curves", "validation"):  # pictures take most of the time, and other tests draw them
        monkeypatch.setattr(f"lightwam.train.{place}.draw", lambda *_, **__: None)
    torch.manual_seed(0)
    data, config_file = write_robot_set(tmp_path / "data"), tmp_path / "robot.json"
    write_policy(config_file)
    write_texts(tmp_path / "texts", config_file)
    config = read_config(config_file)
    vae = {f"vae.{name}": value for name, value in WanVAE(config.vae).state_dict().items()}
    save_checkpoint(tmp_path / "vae", config, vae)

    assert run("data", "check", data, "--config", config_file) == 0
    found = capsys.readouterr().out
    assert "0 errors, 0 warnings" in found and "episodes [3] are shorter than a window" in found
    stats = ("data", "stats", data, "--config", config_file, "--definition", "published")
    assert run(*stats, "--out", tmp_path / "stats.json") == 0
    assert run(*stats, "--out", tmp_path / "part.json", "--episodes", "0-1") == 0
    assert "2 episodes, 76 rows" in capsys.readouterr().out
    statistics = read_statistics(tmp_path / "stats.json")
    assert statistics["action"] != read_statistics(tmp_path / "part.json")["action"]
    precompute = ("data", "precompute", data, "--config", config_file, "--vae", tmp_path / "vae", "--cache",
                  tmp_path / "cache")  # fmt: skip
    assert run(*precompute, "--episodes", "0", "--max-episodes", "1") == 0
    assert "1 files written" in capsys.readouterr().out
    assert run(*precompute) == 0 and "2 files written" in capsys.readouterr().out

    train = (
        "train", "policy", "--recipe", "real_robot", "--config", config_file, "--data", data, "--vae", tmp_path / "vae",
        "--cache", tmp_path / "cache", "--texts", tmp_path / "texts", "--statistics", tmp_path / "stats.json",
        "--random-backbone", "--steps", 2, "--batch", 2, "--warmup-steps", 1, "--save-every", 2, "--log-every", 1,
        "--sampling-steps", 1, "--workers", 0, "--held-out", 0.3, "--eval-every", 2, "--out", tmp_path / "run",
    )  # fmt: skip
    assert run(*train, "--stop-after", 1) == 0
    assert run(*train, "--episodes", "0-2") == 2
    assert "recipe.loading.episodes" in capsys.readouterr().err
    assert run(*train) == 0
    history = TrainingState.read(tmp_path / "run/saves/step_00000002/state.pt").history
    assert len(history["loss"]) == 2 and np.isfinite(history["loss"]).all()

    recipe = read_recipe(str(tmp_path / "run/recipe.json"))
    assert (recipe.computing.precision, recipe.policy.loss.temporal_weighting.prefix_steps) == ("bfloat16", 24)  # type: ignore[union-attr]
    kept, weights = load_checkpoint(tmp_path / "run/checkpoint")
    assert kept.robot == config.robot and any("lora" in name for name in weights)
    assert read_statistics(tmp_path / "run/checkpoint/stats.json")["action"] == statistics["action"]
    figures = json.loads((tmp_path / "run/validation/step_00000002.json").read_text())
    assert len(figures["future_psnr_db_by_frame"]) == config.video.num_frames
