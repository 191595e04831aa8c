# SPDX-License-Identifier: Apache-2.0
"""Baselines that see no image, and the protocols."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.toy_sim import Toy
from lightwam.config import LightWAMConfig
from lightwam.errors import ConfigError, EngineError
from lightwam.sim.libero.simulator import Libero
from lightwam.sim.policies import BlindPolicy, ReplayPolicy, load_policy

ROBOT = LightWAMConfig.libero().robot
protocol = Libero().protocol


def blind_tensors(rng: np.random.Generator) -> dict[str, Any]:
    horizon, hidden = 4, 6
    return {
        "kind": np.array("blind"),
        "layers": np.array(2),
        "weight_0": rng.normal(size=(hidden, 8)).astype(np.float32),
        "bias_0": np.zeros(hidden, np.float32),
        "weight_1": rng.normal(size=(horizon * 7, hidden)).astype(np.float32),
        "bias_1": np.zeros(horizon * 7, np.float32),
        "state_mean": np.zeros(8, np.float32),
        "state_std": np.ones(8, np.float32),
        "action_mean": np.zeros(7, np.float32),
        "action_std": np.ones(7, np.float32),
        "replan": np.array(3),
        "horizon": np.array(horizon),
    }


def test_replay_goes_through_the_demonstration_and_then_stands_still() -> None:
    demo = np.arange(14 * 7, dtype=np.float32).reshape(14, 7)
    policy = ReplayPolicy({"": demo}, ROBOT, horizon=8, replan_steps=6)
    first, second, third = (policy.infer({}).actions for _ in range(3))
    np.testing.assert_array_equal(first, demo[:8])
    np.testing.assert_array_equal(second, demo[6:14])
    np.testing.assert_array_equal(third[:2], demo[12:])
    assert (third[2:, :6] == 0).all() and (third[2:, 6] == -1).all()
    policy.reset()
    np.testing.assert_array_equal(policy.infer({}).actions, demo[:8])


def test_replay_rejects_other_shapes() -> None:
    with pytest.raises(ConfigError, match=r"\(3, 6\)"):
        ReplayPolicy({"": np.zeros((3, 6))}, ROBOT)
    with pytest.raises(ConfigError, match=r"\(0, 7\).*\[steps, 7\]"):
        ReplayPolicy({"": np.zeros((0, 7))}, ROBOT)


def test_standing_still_is_the_robots() -> None:
    """Changes end, targets stay, the gripper opens."""
    robot = replace(Toy.robot, gripper=None)
    assert ReplayPolicy({"": np.ones((1, 3))}, Toy.robot).infer({}).actions[1].tolist() == [0, 0, -1]
    assert ReplayPolicy({"": np.ones((1, 3))}, robot).infer({}).actions[1].tolist() == [0, 0, 1]


def test_blind_policy_reads_only_the_state(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "blind.npz", **blind_tensors(rng))
    policy = load_policy(tmp_path / "blind.npz", ROBOT)
    assert isinstance(policy, BlindPolicy) and policy.replan_steps == 3
    state = rng.normal(size=8).astype(np.float32)
    actions = policy.infer({"state": state}).actions
    assert actions.shape == (4, 7) and actions.dtype == np.float32
    assert set(np.unique(actions[:, 6])) <= {-1.0, 1.0}
    assert not np.allclose(actions, policy.infer({"state": -state}).actions)


def test_a_blind_policy_of_several_tasks_knows_which_one_it_is(tmp_path: Path) -> None:
    """As a column of the first layer for each instruction."""
    rng = np.random.default_rng(0)
    tensors = blind_tensors(rng)
    columns = rng.normal(size=(6, 2)).astype(np.float32)
    more = {"weight_0": np.concatenate([tensors["weight_0"], columns], 1), "instructions": np.array(["left", "right"])}
    policy = BlindPolicy({**tensors, **more}, ROBOT)
    state = rng.normal(size=8).astype(np.float32)
    for number, text in enumerate(("left", "right")):
        policy.set_instruction(text)
        alone = BlindPolicy({**tensors, "bias_0": columns[:, number]}, ROBOT)
        expected = alone.infer({"state": state}).actions
        np.testing.assert_allclose(policy.infer({"state": state}).actions, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="trained on other instructions than 'up'"):
        policy.set_instruction("up")
    BlindPolicy(tensors, ROBOT).set_instruction("anything")


def test_policy_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not exist"):
        load_policy(tmp_path / "nothing.npz", ROBOT)
    np.savez(tmp_path / "other.npz", kind="banana")
    with pytest.raises(ConfigError, match="banana"):
        load_policy(tmp_path / "other.npz", ROBOT)
    tensors = blind_tensors(np.random.default_rng(0))
    del tensors["state_std"]
    np.savez(tmp_path / "broken.npz", **tensors)
    with pytest.raises(ConfigError, match="state_std"):
        load_policy(tmp_path / "broken.npz", ROBOT)


def test_presets_are_the_published_ones() -> None:
    assert list(Libero.protocols) == ["paper", "openpi", "lerobot", "shifted"] and protocol(None).name == "paper"
    paper, openpi, lerobot = protocol("paper"), protocol("openpi"), protocol("lerobot")
    assert (paper.trials, paper.settle_steps, paper.replan_steps, paper.step_limit("libero_10")) == (50, 30, 10, 700)
    assert (openpi.seed, openpi.settle_steps, openpi.replan_steps, openpi.step_limit("libero_object")) == (
        7,
        10,
        5,
        280,
    )
    assert (lerobot.trials, lerobot.replan_steps, lerobot.step_limit("libero_goal")) == (10, None, 300)


def test_the_policy_replans_no_later_than_the_protocol_says() -> None:
    assert protocol("paper").steps_to_execute(4) == 4
    assert protocol("paper").steps_to_execute(16) == 10
    assert protocol("lerobot").steps_to_execute(16) == 16


def test_unknown_protocol_and_suite() -> None:
    with pytest.raises(ConfigError, match="paper, openpi, lerobot"):
        protocol("mine")
    with pytest.raises(ConfigError, match="libero_moon"):
        protocol("paper").step_limit("libero_moon")
