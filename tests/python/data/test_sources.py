# SPDX-License-Identifier: Apache-2.0
"""Choosing episodes and tasks, camera names, and the order of the rows of several data sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.golden_data import LEROBOT, dataset, libero
from lightwam.config.selection import Selection
from lightwam.data.mixture import epoch_order
from lightwam.data.sources import fitted, open_dataset, open_datasets, select
from lightwam.errors import ConfigError, DataError

TINY = LEROBOT / "libero_tiny"


def chosen(**options: Any) -> list[int]:
    (data,) = select([open_dataset(TINY)], Selection(**options))
    return [episode.index for episode in data.episodes]


def test_episodes_and_tasks_are_chosen() -> None:
    (data,) = open_datasets([TINY], libero(), Selection(tasks=("pick up the red square",)))
    assert [(e.index, e.start, e.stop) for e in data.episodes] == [(0, 0, 12), (2, 12, 29)]
    assert len(data.state) == 29 and data.cameras == ("agentview", "wrist")
    whole = dataset(LEROBOT, "libero_tiny")
    assert np.array_equal(data.state, np.delete(whole.state, np.s_[12 : 12 + whole.episodes[1].length], 0))
    assert select([whole], Selection())[0] is whole is select([whole], Selection(episodes=("all",)))[0]
    assert chosen(episodes=("2,0-1",)) == [0, 1, 2] and chosen(episodes=("1-2",)) == [1, 2]
    assert chosen(episodes=("1-2",), tasks=("pick up the red square",)) == [2]
    assert chosen(episodes=("1-2",), max_episodes=1) == [1]


def test_several_data_sets_each_have_their_list() -> None:
    sets = [open_dataset(TINY), open_dataset(TINY)]
    for lists, expected in ((("0", "1-2"), [[0], [1, 2]]), (("all", "2"), [[0, 1, 2], [2]]), (("1",), [[1], [1]])):
        found = select(sets, Selection(episodes=lists))
        assert [[episode.index for episode in data.episodes] for data in found] == expected
    with pytest.raises(ConfigError, match="3 lists for 2 data sets"):
        select(sets, Selection(episodes=("0", "0", "0")))
    other = replace(sets[1], episodes=tuple(replace(episode, task="sing") for episode in sets[1].episodes))
    with pytest.raises(DataError, match=r"no episode of data set .* is chosen"):
        select([sets[0], other], Selection(tasks=("sing",)))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"episodes": ("0-9",)}, "no episodes 3, 4, 5, 6, 7, ...: it has 3, 0 to 2"),
        ({"episodes": ("0-999999999",)}, "no episodes 3, 4, 5, 6, 7, ..."),
        ({"episodes": ("3",)}, "no episodes 3: it has 3"),
        ({"tasks": ("pick up the red squares",)}, "such as .'pick up the red square'"),
        ({"episodes": ("1",), "tasks": ("pick up the red square",)}, "no episode .* is chosen"),
    ],
)
def test_what_is_not_there(options: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        chosen(**options)


@pytest.mark.parametrize("listed", ["", "5-", "9-3", "-1", "1;2", "a", "1-2-3", "\u0663"])
def test_lists_that_are_none(listed: str) -> None:
    with pytest.raises(ConfigError, match=r"--episodes is .*write numbers and ranges"):
        Selection(episodes=(listed,))
    with pytest.raises(ConfigError, match="--max-episodes is 0"):
        Selection(max_episodes=0)


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
