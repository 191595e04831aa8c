# SPDX-License-Identifier: Apache-2.0
"""The replay baseline's demonstrations solve the states they start from; bad states are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.toy_sim import NAME, Toy
from lightwam import cli
from lightwam.errors import ConfigError, SimulatorError
from lightwam.sim.policies import ReplayPolicy, load_policy
from lightwam.sim.replay import demonstrate, write_replay


def test_demonstration_succeeds_and_is_replayed(tmp_path: Path) -> None:
    env = Toy().make_env(Toy().task("reach", 0))
    actions_TA = demonstrate(env, state=3, settle_steps=5, max_steps=30)
    assert actions_TA.shape == (13, 3) and actions_TA.dtype == np.float32
    assert env.succeeded() and env.rendered == 0 and env.calls == ["reset", "set_state", "settle 5"]
    write_replay(tmp_path / "new/replay.npz", {"reach": actions_TA})
    policy = load_policy(tmp_path / "new/replay.npz", Toy.robot, replan_limit=4)
    assert isinstance(policy, ReplayPolicy) and policy.replan_steps == 4
    chunks = [policy.infer({}).actions[:4] for _ in range(4)]
    np.testing.assert_array_equal(np.concatenate(chunks)[:13], actions_TA)


def test_bad_states() -> None:
    env = Toy().make_env(Toy().task("reach", 0))
    with pytest.raises(SimulatorError, match=r"choose 0\.\.4"):
        demonstrate(env, state=5, settle_steps=0, max_steps=1)
    with pytest.raises(SimulatorError, match="did not succeed within 1 steps"):
        demonstrate(env, state=0, settle_steps=0, max_steps=1)


def test_each_instruction_has_its_own_demonstration(tmp_path: Path) -> None:
    demonstrations = {text: np.full((2, 3), value, np.float32) for text, value in (("left", 0.25), ("right", 0.5))}
    write_replay(tmp_path / "replay.npz", demonstrations)
    policy = load_policy(tmp_path / "replay.npz", Toy.robot)
    for text in ("right", "left"):
        policy.set_instruction(text)
        policy.reset()
        np.testing.assert_array_equal(policy.infer({}).actions[:2], demonstrations[text])
    with pytest.raises(ConfigError, match=r"none of the 2 replayed demonstrations is of 'up'"):
        policy.set_instruction("up")
    np.savez(tmp_path / "old.npz", kind="replay", actions=np.ones((1, 3)))
    load_policy(tmp_path / "old.npz", Toy.robot).set_instruction("anything")
    np.savez(tmp_path / "cut.npz", kind="replay", instructions=np.array(["left", "right"]), actions_0=np.ones((1, 3)))
    with pytest.raises(ConfigError, match="lacks demonstrations"):
        load_policy(tmp_path / "cut.npz", Toy.robot)


def test_the_verb_demonstrates_several_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(f"train replay --sim {NAME} --task all --state 3 --out {tmp_path}/replay.npz".split()) == 0
    assert "13, 13 control steps" in capsys.readouterr().out
    with np.load(tmp_path / "replay.npz") as file:
        assert list(file["instructions"]) == ["reach target 0", "reach target 1"]
