# SPDX-License-Identifier: Apache-2.0
"""The replay baseline's demonstration solves the state it starts from; bad states are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.toy_sim import Toy
from lightwam.errors import SimulatorError
from lightwam.sim.policies import ReplayPolicy, load_policy
from lightwam.sim.replay import demonstrate, write_replay


def test_demonstration_succeeds_and_is_replayed(tmp_path: Path) -> None:
    env = Toy().make_env(Toy().task("reach", 0))
    actions_TA = demonstrate(env, state=3, settle_steps=5, max_steps=30)
    assert actions_TA.shape == (13, 3) and actions_TA.dtype == np.float32
    assert env.succeeded() and env.rendered == 0 and env.calls == ["reset", "set_state", "settle 5"]
    write_replay(tmp_path / "new/replay.npz", actions_TA)
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
