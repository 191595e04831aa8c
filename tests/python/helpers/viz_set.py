# SPDX-License-Identifier: Apache-2.0
"""Recordings with a white corner, and a tiny policy with random weights, whose robot's cameras lie otherwise than the
data: what the pictures of lightwam.viz are tested on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.dataset_fixture import ROBOT, TASK, with_gripper
from helpers.robots import with_robot
from helpers.training import tiny_config
from lightwam.config import LightWAMConfig
from lightwam.data.episode_files import Episode, write_episode
from lightwam.data.lerobot_writer import write_dataset
from lightwam.data.sources import open_datasets
from lightwam.data.windows import measure_statistics
from lightwam.model import HashedWordsEncoder, LightWAM, WanVAE
from lightwam.model.checkpoint_folder import save_checkpoint

SIDE, CORNER, LENGTHS = 32, 12, (7, 3)


def config(**expert: Any) -> LightWAMConfig:
    """Images are upside down in the data and upright on the robot; the grid has 2 x 4 tokens, 2 x 2 a camera."""
    tiny = tiny_config()
    cameras = tuple(replace(camera, on_robot="upright") for camera in tiny.robot.cameras)
    changed = replace(tiny.action_expert, **expert)
    return with_robot(replace(tiny, action_expert=changed, replan_steps=8), cameras=cameras)


def write_recordings(root: Path, action_width: int = 7) -> Path:
    """Grey images, but for the upper left corner of what the wrist's camera recorded; 4 control steps a row."""
    rng, staging = np.random.default_rng(0), root.with_name(root.name + ".staging")
    for number, length in enumerate(LENGTHS):
        episode = Episode(TASK, "full")
        for _ in range(length):
            grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
            wrist = grey.copy()
            wrist[:CORNER, :CORNER] = 255
            action = with_gripper(rng.uniform(-1, 1, (4, action_width)).astype(np.float32))
            columns = {"observation.state": rng.normal(size=8).astype(np.float32), "action": action}
            episode.add_row(columns, {"agentview": grey, "wrist": wrist})
        write_episode(staging / f"episode_{number:06d}", episode, 5)
    write_dataset(staging, root, ROBOT, fps=5, robot_type="panda")
    return root


def write_policy(folder: Path, data: Path, made: LightWAMConfig) -> Path:
    """A checkpoint folder of random weights with the statistics of the data."""
    torch.manual_seed(3)
    parts = {"": LightWAM(made), "vae.": WanVAE(made.vae), "text_encoder.": HashedWordsEncoder(made.text)}
    weights = {
        prefix + name: tensor + 0.1 * torch.randn_like(tensor)
        for prefix, part in parts.items()
        for name, tensor in part.state_dict().items()
    }
    statistics = measure_statistics(open_datasets([data], made), made)
    save_checkpoint(folder, made, weights, statistics)
    return folder


def fill(root: Path) -> None:
    """data/ and checkpoint/ in one folder."""
    write_policy(root / "checkpoint", write_recordings(root / "data"), config())
