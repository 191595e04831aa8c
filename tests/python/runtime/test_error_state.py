# SPDX-License-Identifier: Apache-2.0
"""`numpy.seterr(all="raise")` of the caller, and numbers near zero: our functions compute as ever, and restore it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from lightwam.arithmetic import default_arithmetic
from lightwam.assets import bundled_engine
from lightwam.config import LightWAMConfig
from lightwam.data.normalize import Normalizer
from lightwam.errors import ObservationError
from lightwam.runtime import ChunkExecutor, Policy
from lightwam.sim.policies import BlindPolicy, ReplayPolicy

TINY, DENORMAL = np.full(8, 1e-310), np.full(8, 1e-42, np.float32)
FRAME = np.zeros((8, 8, 3), np.uint8)
ROBOT = LightWAMConfig.libero().robot


@pytest.fixture(autouse=True)
def raising() -> Iterator[None]:
    """The caller's error state; every function leaves it as it is."""
    with np.errstate(all="raise"):
        yield
        assert set(np.geterr().values()) == {"raise"}


@pytest.fixture(scope="module")
def policy() -> Policy:
    policy = Policy(bundled_engine(), threads=1)
    policy.set_instruction("pick up the alphabet soup")
    return policy


def seen(state: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"images": {"agentview": FRAME, "wrist": FRAME}, "state": state}


def test_a_tiny_state_is_zero(policy: Policy) -> None:
    zero = policy.infer(seen(np.zeros(8))).actions
    for state in (TINY, -TINY, DENORMAL, np.full(8, 5e-324)):
        np.testing.assert_array_equal(policy.infer(seen(state)).actions, zero)
    np.testing.assert_array_equal(ChunkExecutor(policy).step(seen(TINY)), zero[0])


@pytest.mark.parametrize("value", [1e300, -1e39, np.nan, np.inf])
def test_a_state_beyond_float32_is_our_error(policy: Policy, value: float) -> None:
    with pytest.raises(ObservationError, match="expected a finite number"):
        policy.infer(seen(np.full(8, value)))


def blind() -> dict[str, Any]:
    small = {"weight_0": (16, 8), "bias_0": 16, "weight_1": (112, 16), "bias_1": 112, "action_mean": 7, "action_std": 7}
    tensors: dict[str, Any] = {name: np.full(shape, 1e-30, np.float32) for name, shape in small.items()}
    mean, deviation = np.zeros(8, np.float32), np.full(8, 1e-3, np.float32)
    return {**tensors, "state_mean": mean, "state_std": deviation, "layers": 2, "replan": 4, "horizon": 16}


NORMALIZER = Normalizer(np.full(8, 1e-20, np.float32), np.zeros(8, np.float32))
STATISTICS = {"state": {"default": {"global_mean": [1e-310] * 2, "global_std": [1e-42, 3.0]}}}
CALLS: dict[str, Callable[[], Any]] = {
    "forward": lambda: NORMALIZER.forward(TINY),
    "forward of float32": lambda: NORMALIZER.forward(np.full(8, 1e-30, np.float32)),
    "backward": lambda: NORMALIZER.backward(TINY),
    "from_statistics": lambda: Normalizer.from_statistics(STATISTICS, "state", "z-score", 2).scale,
    "to_robot": lambda: ROBOT.to_robot(TINY[:7]),
    "to_data": lambda: ROBOT.to_data(TINY[:7]),
    "replay": lambda: ReplayPolicy({"": TINY[None, :7]}, ROBOT).infer(seen(TINY)).actions,
    "blind": lambda: BlindPolicy(blind(), ROBOT).infer(seen(TINY)).actions,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_functions_that_underflow(call: Callable[[], Any]) -> None:
    assert np.isfinite(call()).all()


def test_the_state_comes_back_after_an_error() -> None:
    @default_arithmetic
    def fail() -> None:
        assert np.geterr()["under"] == "ignore"
        raise KeyError

    with pytest.raises(KeyError):
        fail()
