# SPDX-License-Identifier: Apache-2.0
"""Rollouts while training: they change nothing in the training, a failure is a warning, bad options are errors."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import arm_sim, toy_sim
from helpers.training import policy_args, tiny_config
from lightwam.cli import train
from lightwam.cli.rollouts import SimulatorRollouts
from lightwam.errors import ConfigError, DistributedError, LightWAMError, SimulatorError
from lightwam.train.distributed import World
from lightwam.train.rollouts import Rollouts, check_instructions, check_rollouts, roll_out
from lightwam.train.state import TrainingState
from lightwam.train.stopping import StopRequest

TWO_TASKS: dict[str, Any] = {"rollout_sim": arm_sim.NAME, "rollout_tasks": (0, 1), "rollout_trials": 2}


def test_rollouts_are_recorded_and_change_nothing_else(folders: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = {
        **TWO_TASKS,
        "rollout_every": 3,
        "save_every": 3,
        "keep_best": "rollout/success",
        "keep_last": 1,
        "eval_every": 0,
    }
    assert train.main(policy_args(folders, run, **more)) == 0
    one, two = (TrainingState.read(root / "saves/step_00000004/state.pt") for root in (whole, run))
    assert one.average is not None and two.average is not None
    for name, value in one.average.items():
        assert torch.equal(value, two.average[name]), name
    assert one.history["loss"] == two.history["loss"]
    figures = {name: points for name, points in two.history.items() if name.startswith("rollout/")}
    assert figures == {
        "rollout/success": [(3, 0.5)], "rollout/success_task_0": [(3, 1.0)], "rollout/success_task_1": [(3, 0.0)],
    }  # fmt: skip
    report = json.loads((run / "rollouts/step_00000003/report.json").read_text())
    assert report["successes"] == 2 and not report["environment"]["torch_imported"]
    assert os.listdir(run / "rollouts/step_00000003") == ["report.json"]
    assert os.readlink(run / "best") == "saves/step_00000003/checkpoint"
    assert json.loads((run / "saves/step_00000003/save.json").read_text())["figures"]["rollout/success"] == 0.5
    assert json.loads((run / "recipe.json").read_text())["rollouts"]["rollout_tasks"] == [0, 1]


class Simulate:
    """Makes no trials: returns, raises, or waits for the tick to end it."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.ticks = answer, 0

    def __call__(self, tick: Callable[[], object]) -> dict[str, float]:
        while self.answer is None:
            self.ticks += 1
            tick()
        if isinstance(self.answer, Exception):
            raise self.answer
        return dict(self.answer)


@pytest.mark.parametrize(
    ("answer", "number", "minutes", "line"),
    [
        (RuntimeError("no\nrenderer"), 0, 1.0, "no rollout: RuntimeError: no renderer"),
        (MemoryError(), 0, 1.0, "no rollout: MemoryError: it failed"),
        (None, 15, 1.0, "no rollout: the training is to end"),
        (None, 0, 1e-9, "no rollout: it took longer than --rollout-minutes 1e-09"),
    ],
)
def test_a_rollout_that_fails_is_one_warning(
    answer: Any, number: int, minutes: float, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    stop = StopRequest()
    stop.signal = number
    assert roll_out(World(), stop, minutes, Simulate(answer)) == {}
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [line]


class Pair(World):
    """A process of two; the other one says what `others` holds, call by call."""

    def __init__(self, rank: int, others: list[int]) -> None:
        super().__init__(rank=rank, size=2)
        object.__setattr__(self, "others", others)
        object.__setattr__(self, "said", [])

    def agree(self, number: int) -> int:
        self.said.append(number)  # type: ignore[attr-defined]
        return max(number, self.others.pop(0))  # type: ignore[attr-defined]


def test_the_other_processes_wait_and_tell_of_signals() -> None:
    stop = StopRequest()
    waiting = Pair(1, [0, 0, 2])
    assert roll_out(waiting, stop, 1.0, Simulate({})) == {} and waiting.said == [0, 0, 0]  # type: ignore[attr-defined]
    first = Pair(0, [0, 0, 1, 0])
    assert roll_out(first, stop, 1.0, Simulate(None)) == {}
    assert first.said == [0, 0, 0, 2]  # type: ignore[attr-defined]
    assert roll_out(Pair(0, [0]), stop, 1.0, Simulate({"rollout/success": 1.0})) == {"rollout/success": 1.0}
    with pytest.raises(DistributedError):
        roll_out(Pair(0, [0]), stop, 1.0, Simulate(DistributedError("lost")))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {**TWO_TASKS, "rollout_sim": toy_sim.NAME},
            ConfigError,
            "the policy's state width is 8 and that of simulator .* is 2",
        ),
        ({**TWO_TASKS, "rollout_trials": 9}, SimulatorError, "trial 5 has no official state"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type[LightWAMError], message: str) -> None:
    with pytest.raises(error, match=message):
        SimulatorRollouts(Rollouts(rollout_every=1, **options)).check(tiny_config())


def test_rollouts_need_a_simulator_and_known_instructions() -> None:
    assert check_rollouts(Rollouts(), None, tiny_config()) == ()
    with pytest.raises(ConfigError, match="--rollout-every is 5 and no simulator is given"):
        check_rollouts(Rollouts(rollout_every=5), None, tiny_config())
    check_instructions((), ())
    with pytest.raises(ConfigError, match="the instruction 'b', which no data set has"):
        check_instructions(("a", "b"), ("a",))
