# SPDX-License-Identifier: Apache-2.0
"""Robots: their checks, the gripper's rule both ways, and robot files on top of a base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.model_golden import FOLDER, load_json
from helpers.robots import numbered, with_robot
from lightwam.config import Camera, Dimension, GripperRule, LightWAMConfig, RobotConfig, read_config
from lightwam.errors import ConfigError

LIBERO = LightWAMConfig.libero().robot
JOINTS = [
    {"name": name, "unit": "deg"}
    for name in ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
]
SO101: dict[str, Any] = {
    "name": "so101",
    "cameras": [
        {"name": "front", "top": 0, "left": 0, "height": 128, "width": 128},
        {"name": "wrist", "top": 0, "left": 128, "height": 128, "width": 128, "on_robot": "rotated_180"},
    ],
    "state": [*JOINTS, {"name": "gripper", "unit": "%"}],
    "action": [*JOINTS, {"name": "gripper", "unit": "%"}],
    "control_hz": 30,
    "gripper": {
        "dimension": "gripper", "data_open": 1, "data_closed": 0, "robot_open": 100, "robot_closed": 0,
    },
    "prompt_template": "Do this: {task}",
}  # fmt: skip


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": ""}, "robot.name is ''"),
        ({"state": ()}, r"robot.state is \[\]"),
        ({"state": (Dimension("x", "m"),) * 2}, "each name once"),
        ({"state": (Dimension("x", "m", delta=True),)}, "only actions can be deltas"),
        ({"action": numbered(2)}, "robot.gripper.dimension is 'gripper'"),
        ({"control_hz": 0.0}, "robot.control_hz is 0.0"),
        ({"cameras": ()}, r"cameras is \[\]"),
    ],
)
def test_bad_robots(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        replace(LIBERO, **change)
    assert "\n" not in str(caught.value)


def test_bad_parts_of_robots() -> None:
    for build, named in (
        (lambda: Dimension("x", "furlong"), "dimension x.unit is 'furlong'"),
        (lambda: Dimension("", "m"), "dimension.name"),
        (lambda: Camera("eye", 0, 0, 16, 16, on_robot="sideways"), "camera eye.on_robot is 'sideways'"),  # type: ignore[arg-type]
        (lambda: GripperRule("g", 1.0, 1.0, 0.0, 1.0), "gripper.data_open, data_closed"),
        (lambda: GripperRule("g", 1.0, 0.0, 0.0, float("inf")), "gripper.robot_open, robot_closed"),
    ):
        with pytest.raises(ConfigError, match=named):
            build()


def test_liberos_gripper() -> None:
    """As published: g becomes sign(-(2g - 1)); the environment's -1 is open, the data sets' 1 is."""
    values = np.array([0.0, 0.2, 0.5, 0.7, 1.0], np.float32)
    actions = np.stack([np.arange(7, dtype=np.float32)] * len(values))
    actions[:, 6] = values
    made = LIBERO.to_robot(actions)
    assert made.dtype == np.float32 and LIBERO.gripper_column == 6
    np.testing.assert_array_equal(made[:, :6], actions[:, :6])
    np.testing.assert_array_equal(made[:, 6], np.sign(-(2 * values - 1)))
    back = LIBERO.to_data(made[None])[0]
    np.testing.assert_array_equal(back[:, 6], [0, 0, 0, 1, 1])  # half way counts as closed
    assert str(LIBERO.gripper) == "g becomes sign(-(2g - 1)): -1 open, +1 close"


@pytest.mark.parametrize("two_valued", [False, True])
def test_other_grippers(two_valued: bool) -> None:
    rule = GripperRule("g", data_open=0.08, data_closed=0.0, robot_open=0.0, robot_closed=255.0, two_valued=two_valued)
    values = np.array([0.0, 0.03, 0.05, 0.08])
    made = rule.to_robot(values)
    wanted = [255, 255, 0, 0] if two_valued else 255 * (1 - values / 0.08)
    np.testing.assert_allclose(made, wanted, atol=1e-12)
    np.testing.assert_allclose(rule.to_data(made), [0, 0, 0.08, 0.08] if two_valued else values, atol=1e-15)
    described = "sign(-(25g - 1))" if two_valued else "-3187.5g +255"
    assert str(rule) == f"g becomes {described}: +0 open, +255 close"


def test_a_robot_without_a_gripper_takes_the_data_as_it_is() -> None:
    robot, actions = LightWAMConfig.robotwin().robot, np.ones((2, 14))
    assert robot.gripper_column is None
    np.testing.assert_array_equal(robot.to_robot(actions), actions)


def test_a_robot_file_replaces_the_robot_of_its_base(tmp_path: Path) -> None:
    document = {"base": "nano", "robot": SO101, "replan_steps": 8, "video": {"stride": 2}}
    config, nano = read_config(write(tmp_path / "so101.json", document)), LightWAMConfig.nano()
    assert (config.name, config.state_dim, config.action_dim, config.replan_steps) == ("nano-so101", 6, 6, 8)
    assert config.robot == RobotConfig(
        name="so101",
        cameras=(Camera("front", 0, 0, 128, 128), Camera("wrist", 0, 128, 128, 128, on_robot="rotated_180")),
        state=config.robot.action,
        action=(*(Dimension(joint["name"], "deg") for joint in JOINTS), Dimension("gripper", "%")),
        control_hz=30.0,
        gripper=GripperRule("gripper", 1.0, 0.0, 100.0, 0.0),
        prompt_template="Do this: {task}",
    )
    assert config.text == replace(nano.text, prompt_template="Do this: {task}")
    assert config.video == replace(nano.video, stride=2) and config.video_dit == nano.video_dit
    assert read_config(write(tmp_path / "whole.json", config.to_dict())) == config
    again = {"base": "whole.json", "name": "mine"}  # a path from the robot file's folder
    assert read_config(write(tmp_path / "again.json", again)) == replace(config, name="mine")


def test_the_guides_robot_file_is_read(tmp_path: Path) -> None:
    guide = (FOLDER.parents[2] / "docs/guides/add-a-robot.md").read_text()
    path = tmp_path / "so101.json"
    path.write_text(guide.split("```json\n")[1].split("```")[0])
    config = read_config(path)
    assert (config.robot.name, config.state_dim, config.action_dim, config.robot.control_hz) == ("so101", 6, 6, 30.0)


def test_a_published_base_takes_the_robot_file_s_robot(tmp_path: Path) -> None:
    published = {**load_json("golden_set1"), "proprio_dim": 6, "action_dim": 6}
    write(tmp_path / "published.json", published)
    with pytest.raises(ConfigError, match=r"\(6, 6\), which is not libero \(8, 7\) or robotwin \(14, 14\)"):
        read_config(tmp_path / "published.json")
    config = read_config(write(tmp_path / "so101.json", {"base": "published.json", "robot": SO101}))
    assert (config.robot.name, config.action_dim, config.video_dit.hidden_dim) == ("so101", 6, 72)
    assert config == replace(LightWAMConfig.from_published(published, config.robot), name=config.name)
    with pytest.raises(ConfigError, match=r"\(8, 7\), which is not so101 \(6, 6\)"):
        LightWAMConfig.from_published(load_json("golden_set1"), config.robot)


def test_published_widths_name_a_published_robot() -> None:
    both = {**load_json("golden_set1"), "proprio_dim": 14, "action_dim": 14}
    config = LightWAMConfig.from_published(both)
    assert config.robot == LightWAMConfig.robotwin().robot and config.replan_steps == config.horizon == 8


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"base": "nanoo"}, "nanoo is missing"),
        ({"base": "nano", "robot": {**SO101, "colour": 1}}, r"robot has unknown fields \['colour'\]"),
        ({"base": "nano", "robots": SO101}, r"config has unknown fields \['robots'\]"),
        ({"base": "robot.json"}, "is a robot file"),
        ({"base": "nano", "video": 3}, "config.video is 3"),
        ([], "must hold a JSON object"),
    ],
)
def test_bad_robot_files(tmp_path: Path, document: Any, named: str) -> None:
    path = write(tmp_path / "robot.json", document)
    with pytest.raises(ConfigError, match=named):
        read_config(path)


def test_presets_and_files_that_are_missing(tmp_path: Path) -> None:
    assert read_config("robotwin") == LightWAMConfig.robotwin()
    assert read_config(FOLDER / "full_config.json").robot == LIBERO
    with pytest.raises(ConfigError, match=r"'absent' is no preset \(libero, robotwin, nano\) and no file"):
        read_config("absent")


def test_a_prompt_that_is_not_the_encoders_is_an_error() -> None:
    nano = LightWAMConfig.nano()
    assert with_robot(nano, prompt_template="{task}!").text.prompt_template == "{task}!"
    with pytest.raises(ConfigError, match=r"robot.prompt_template is '\{task\}!'"):
        replace(nano, robot=replace(nano.robot, prompt_template="{task}!"))
