# SPDX-License-Identifier: Apache-2.0
"""Choosing episodes and tasks, camera names, and the order of the rows of several data sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.golden_data import LEROBOT, dataset, libero
from lightwam.data.mixture import epoch_order
from lightwam.data.sources import DataSource, fitted, open_dataset, open_source, select
from lightwam.errors import ConfigError, DataError

TINY = LEROBOT / "libero_tiny"


def test_episodes_and_tasks_are_chosen() -> None:
    robot = libero().robot
    source = DataSource(TINY, tasks=("pick up the red square",))
    data = open_source(source, robot)
    assert [(e.index, e.start, e.stop) for e in data.episodes] == [(0, 0, 12), (2, 12, 29)]
    assert len(data.state) == 29 and data.cameras == ("agentview", "wrist")
    assert [e.index for e in open_source(replace(source, episodes=(2, 1)), robot).episodes] == [2]
    whole = dataset(LEROBOT, "libero_tiny")
    assert select(whole) is whole
    for given, match in (({"episodes": [3]}, r"no episodes \[3\]: it has 3, up to 2"), ({"tasks": ["sing"]}, "no task"),
                         ({"episodes": []}, "no episode .* is chosen")):  # fmt: skip
        with pytest.raises(DataError, match=match):
            select(whole, **given)
    with pytest.raises(DataError, match="is chosen"):
        select(whole, [1], ["pick up the red square"])


def test_cameras_take_the_robots_names() -> None:
    data, robot = open_dataset(TINY), libero().robot
    assert data.cameras == ("image", "wrist_image")
    assert fitted(open_dataset(TINY, robot), robot).cameras == ("agentview", "wrist")
    plain = replace(robot, cameras=tuple(replace(camera, data_name=None) for camera in robot.cameras))
    with pytest.raises(DataError, match=r"without \['agentview', 'wrist'\]"):
        fitted(data, plain)
    with pytest.raises(DataError, match=r"without \['eye'\]"):
        data.renamed({"eye": "agentview"})
    only = data.renamed({"image": "wrist_image"})
    assert only.cameras == ("wrist_image",)
    assert only.episodes[0].videos["wrist_image"] == data.episodes[0].videos["image"]
    swapped = data.renamed({"image": "wrist_image", "wrist_image": "image"})
    assert swapped.episodes[0].videos["image"] == data.episodes[0].videos["wrist_image"]


def test_a_gripper_of_another_convention() -> None:
    robot = libero().robot
    data = open_dataset(TINY, robot)
    assert robot.gripper is not None
    action = data.action.copy()
    action[..., 6] = 1 - 2 * action[..., 6]  # -1 open, 1 closed, as robosuite has it
    other = replace(data, action=action)
    with pytest.raises(DataError, match="'gripper' from -1 to 1, the robot's file says 1 open and 0 closed"):
        fitted(other, robot)
    fitted(other, replace(robot, gripper=replace(robot.gripper, data_open=-1.0, data_closed=1.0)))
    fitted(other, replace(robot, gripper=None))


def test_an_unknown_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no known format"):
        open_dataset(tmp_path)


def test_without_shares_every_row_comes_once_in_the_published_order() -> None:
    order = epoch_order([5, 7], seed=42, epoch=3)
    assert torch.equal(order, torch.randperm(12, generator=torch.Generator().manual_seed(45)))
    assert torch.equal(order, epoch_order([5, 7], 42, 3, [None, None]))


def test_shares_are_kept_and_no_row_comes_twice_before_all_came_once() -> None:
    order = epoch_order([30, 70], 0, 0, [3.0, 1.0])
    first, second = order[order < 30], order[order >= 30]
    assert (len(first), len(second)) == (75, 25)
    counts = np.bincount(first, minlength=30)
    assert set(counts.tolist()) == {2, 3} and len(set(second.tolist())) == 25
    assert not torch.equal(order, epoch_order([30, 70], 0, 1, [3.0, 1.0]))
    assert torch.equal(order, epoch_order([30, 70], 0, 0, [3.0, 1.0]))
    assert (epoch_order([30, 70], 0, 0, [1.0, 0.0]) < 30).all()


@pytest.mark.parametrize("shares", [[1.0, None], [1.0], [-1.0, 2.0], [0.0, 0.0], [float("nan"), 1.0]])
def test_unfit_shares(shares: list[float | None]) -> None:
    with pytest.raises(ConfigError, match="shares"):
        epoch_order([3, 4], 0, 0, shares)
    with pytest.raises(ConfigError, match="at least one"):
        epoch_order([3, 0], 0, 0)
