# SPDX-License-Identifier: Apache-2.0
"""States far from those of training, words that the text encoder never saw: a warning once, an error, or nothing."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.engine_files import ACTION_WIDTH, STATE_WIDTH, TASK, Engine, observation, small_engine, write_engine
from lightwam.errors import EngineError, InstructionError, ObservationError, UnfamiliarInputWarning
from lightwam.runtime import ChunkExecutor, Policy

RANGES = [[-1.0, 1.0], [0.0, 0.5], [0.2, 0.2], None, [-1e300, 1e300]]
NEAR = [2.9, -0.4, 1.1, 1e30, -1e30]
WORDS = ["can", "pick", "soup", "the", "up"]


def described() -> Engine:
    engine = small_engine()
    policy = engine.document["policy"]
    policy["state"] = [{"name": f"joint_{i}", "unit": "rad", "range": limits} for i, limits in enumerate(RANGES)]
    policy["action"] = [{"name": f"motor_{i}", "unit": "1", "range": None} for i in range(ACTION_WIDTH)]
    policy["text_encoder"]["words"] = WORDS
    return engine


def seeing(state: list[float]) -> dict[str, Any]:
    return {**observation(), "state": np.array(state)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_engine(tmp_path / "described.lwam", described())


def opened(path: Path, **options: Any) -> Policy:
    policy = Policy(path, threads=1, **options)
    policy.set_instruction(TASK)
    return policy


def far(**numbers: float) -> dict[str, Any]:
    """The near state with some numbers replaced."""
    return seeing([numbers.get(f"at_{i}", near) for i, near in enumerate(NEAR)])


def test_near_states_and_known_words_are_silent(path: Path) -> None:
    policy = opened(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.infer(seeing(NEAR))
        policy.set_instruction("Pick up the CAN!")


def test_a_far_number_warns_once(path: Path) -> None:
    policy = opened(path)
    with pytest.warns(UnfamiliarInputWarning) as heard:
        for _ in range(3):
            policy.infer(far(at_0=math.degrees(0.7)))
        policy.infer(far(at_0=-50, at_2=-0.9))
    assert [str(warning.message) for warning in heard] == [
        "state[0] (joint_0) is 40.11 rad, in training -1 to 1 rad: far from what engine 'small' was trained on; "
        "check the units and the order of the state",
        "state[2] (joint_2) is -0.9 rad, in training 0.2 to 0.2 rad: far from what engine 'small' was trained on; "
        "check the units and the order of the state",
    ]
    assert {warning.filename for warning in heard} == {__file__}


def test_the_actions_do_not_depend_on_the_option(path: Path, tmp_path: Path) -> None:
    plain = opened(write_engine(tmp_path / "plain.lwam", small_engine()))
    expected = plain.infer(far(at_0=40)).actions
    np.testing.assert_array_equal(opened(path, unfamiliar="ignore").infer(far(at_0=40)).actions, expected)
    with pytest.warns(UnfamiliarInputWarning):
        np.testing.assert_array_equal(opened(path).infer(far(at_0=40)).actions, expected)


def test_an_option_makes_it_an_error_each_time(path: Path) -> None:
    policy = opened(path, unfamiliar="error")
    before = policy.infer(seeing(NEAR)).actions
    for _ in range(2):
        with pytest.raises(ObservationError, match=r"state\[1\] \(joint_1\) is 90 rad, in training 0 to 0.5 rad"):
            policy.infer(far(at_1=90))
        with pytest.raises(InstructionError, match="never saw 'tea' in training"):
            policy.set_instruction("pick up the tea")
    assert policy.instruction == TASK
    np.testing.assert_array_equal(policy.infer(seeing(NEAR)).actions, before)


def test_an_option_turns_it_off(path: Path) -> None:
    policy = opened(path, unfamiliar="ignore")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.infer(far(at_0=1e6))
        policy.set_instruction("pour the tea")


def test_words_never_seen_warn_once(path: Path) -> None:
    policy = opened(path)
    with pytest.warns(UnfamiliarInputWarning) as heard:
        policy.set_instruction("pour the tea")
        policy.set_instruction("Tea, pour!")
        policy.set_instruction("pick up the t\u200bea")
    told = [str(warning.message) for warning in heard]
    assert len(told) == 2
    assert "never saw 'pour', 'tea' in training; use the words of its instructions, not 'pour the tea'" in told[0]
    assert "never saw 't', 'ea' in training" in told[1]
    assert {warning.filename for warning in heard} == {__file__}


def test_warnings_that_are_errors_end_the_call(path: Path) -> None:
    policy = opened(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(UnfamiliarInputWarning):
                policy.infer(far(at_0=40))
            with pytest.raises(UnfamiliarInputWarning):
                policy.set_instruction("tea")
    assert policy.instruction == TASK
    policy.infer(seeing(NEAR))


def test_an_executor_and_other_threads_warn_too(path: Path) -> None:
    executor = ChunkExecutor(opened(path))
    with pytest.warns(UnfamiliarInputWarning, match="joint_0") as told:
        executor.step(far(at_0=40))
    assert told[0].filename == __file__
    policy = opened(path)
    with pytest.warns(UnfamiliarInputWarning) as heard:
        threads = [threading.Thread(target=policy.infer, args=(far(at_0=40),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(heard) == 1


def test_metadata_shows_what_the_engine_tells(path: Path, policy: Policy) -> None:
    told = opened(path).metadata["policy"]
    assert told["state"][1] == {"name": "joint_1", "unit": "rad", "range": [0.0, 0.5]}
    assert told["action"][0]["name"] == "motor_0" and told["text_encoder"]["words"] == WORDS
    assert "state" not in policy.metadata["policy"]  # an older engine


def test_older_engines_are_not_checked(policy: Policy) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.infer(seeing([1e30] * STATE_WIDTH))
        policy.set_instruction("pour the tea")


@pytest.mark.parametrize("choice", ["loud", "", None, True, ["warn"]])
def test_unknown_choices_are_refused(path: Path, choice: Any) -> None:
    with pytest.raises(ObservationError, match=r"unfamiliar is .*; expected 'warn', 'error' or 'ignore'"):
        Policy(path, unfamiliar=choice)


Spoil = Callable[[dict[str, Any]], Any]
DAMAGES: dict[str, tuple[Spoil, str]] = {
    "too few": (lambda policy: policy["state"].pop(), "'state' has 4 entries; expected 5"),
    "no list": (lambda policy: policy.update(state={}), "'state' is an object"),
    "no object": (lambda policy: policy["state"].__setitem__(0, 3), "policy: state 0"),
    "no unit": (lambda policy: policy["state"][2].pop("unit"), "policy: state 2: key 'unit' is missing"),
    "no range": (lambda policy: policy["state"][2].pop("range"), "policy: state 2: key 'range' is missing"),
    "empty name": (lambda policy: policy["action"][1].update(name=""), "policy: action 1: 'name' or 'unit' is empty"),
    "range falls": (lambda policy: policy["state"][0].update(range=[1, -1]), "'range' falls"),
    "one limit": (lambda policy: policy["state"][0].update(range=[1]), "'range' must be"),
    "limits as texts": (lambda policy: policy["state"][0].update(range=["a", "b"]), "'range' holds a string"),
    "words no list": (lambda policy: policy["text_encoder"].update(words="pick"), "'words' is a string"),
    "a word no text": (lambda policy: policy["text_encoder"].update(words=["pick", 3]), "'words' holds a number"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_descriptions_are_engine_errors(tmp_path: Path, case: str) -> None:
    spoil, message = DAMAGES[case]
    engine = described()
    spoil(engine.document["policy"])
    with pytest.raises(EngineError, match=message) as caught:
        Policy(write_engine(tmp_path / "damaged.lwam", engine))
    assert "\n" not in str(caught.value)
