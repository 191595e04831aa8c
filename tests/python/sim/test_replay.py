# SPDX-License-Identifier: Apache-2.0
"""The replay baseline's demonstration solves the state it starts from; bad states are named."""

from collections.abc import Iterator

import pytest

from lightwam.errors import SimulatorError
from lightwam.sim.libero.env import LiberoEnv, load_task
from lightwam.sim.replay import demonstrate


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    env = LiberoEnv(load_task("libero_object", 0), render=False)
    yield env
    env.close()


def test_demonstration_succeeds(env: LiberoEnv) -> None:
    actions_TA = demonstrate(env, state=49, settle_steps=5, max_steps=300)
    assert actions_TA.shape[1] == 7 and 50 < len(actions_TA) < 300
    assert env.succeeded()


def test_bad_states(env: LiberoEnv) -> None:
    with pytest.raises(SimulatorError, match=r"choose 0\.\.49"):
        demonstrate(env, state=50, settle_steps=0, max_steps=1)
    with pytest.raises(SimulatorError, match="did not succeed within 1 steps"):
        demonstrate(env, state=0, settle_steps=0, max_steps=1)
