# SPDX-License-Identifier: Apache-2.0
"""The smallest simulator: a point must reach a target. Whatever takes a simulator is tested on it, in milliseconds.

A start is [x, y, target x, target y] (m); an action moves the point by up to 0.1 m and opens a gripper of no use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightwam.config.robot import Camera, Dimension, GripperRule, RobotConfig
from lightwam.data.episode_files import Episode
from lightwam.errors import SimulatorError
from lightwam.runtime import Observation
from lightwam.sim.env import (
    Array,
    Decision,
    EvaluationProtocol,
    Expert,
    Recorder,
    Recording,
    Simulator,
    SimulatorEnv,
    Task,
)
from lightwam.sim.policies import PolicyLike

NAME = "helpers.toy_sim:Toy"  # for --sim
SIZE = 32  # pixels
STEP = 0.1  # metres


class ToyEnv(SimulatorEnv, Expert, Recorder):
    """Its own expert and recorder; counts what is requested of it."""

    def __init__(self, task: Task, render: bool = True) -> None:
        self.task, self.renders = task, render
        self.calls: list[str] = []
        self.steps = self.rendered = 0
        self.fresh = False
        self.start_N = np.array([0.0, 0.0, 1.0, 0.0])

    def seed(self, seed: int) -> None:
        self.calls.append(f"seed {seed}")

    def reset(self) -> None:
        self.calls.append("reset")

    def official_states(self) -> Array:
        return np.array([[0.0, 0.0, 1.0 + 0.1 * index, 0.0] for index in range(5)])

    def shifted_state(self, official_N: Array, index: int) -> Array:
        return np.concatenate([official_N[:2], official_N[2:] + np.random.default_rng(index).uniform(-0.3, 0.3, 2)])

    def set_state(self, state_N: Array) -> None:
        self.calls.append("set_state")
        self.start_N, self.steps, self.fresh = np.array(state_N), 0, False

    def settle(self, steps: int, *, render_last: bool = True) -> None:
        self.calls.append(f"settle {steps}")
        self.fresh = render_last

    def step(self, action_A: Sequence[float] | Array, *, render: bool = False) -> bool:
        self.steps += 1
        self.rendered += render
        self.fresh = render and self.renders
        self.start_N[:2] += STEP * np.clip(np.asarray(action_A)[:2], -1, 1)
        return self.succeeded()

    def observation(self) -> Observation:
        if not self.fresh:
            raise SimulatorError("the last step did not render")
        image_HWC = np.zeros((SIZE, SIZE, 3), np.uint8)
        for channel, place in enumerate((self.start_N[:2], self.start_N[2:])):
            column, row = np.clip(SIZE // 2 + 8 * place, 0, SIZE - 1).astype(int)
            image_HWC[row, column, channel] = 255
        return {"images": {"top": image_HWC}, "state": self.start_N[:2].astype(np.float32)}

    def succeeded(self) -> bool:
        return bool(np.linalg.norm(self.start_N[:2] - self.start_N[2:]) < STEP / 2)

    def close(self) -> None:
        self.calls.append("close")

    def expert(self) -> Expert:
        return self

    def decide(self) -> Decision:
        move = np.clip((self.start_N[2:] - self.start_N[:2]) / STEP, -1, 1)
        return Decision(np.array([*move, -1.0]), "reach")

    def recorder(self, placements: str, policy: PolicyLike | None) -> Recorder:
        return self

    def record(self, kind: str, rng: np.random.Generator) -> Episode | None:
        """Rows of one step each; every other start lies too far away."""
        self.set_state(np.array([0.0, 0.0, *rng.uniform(0.2, 0.3 if kind == "near" else 1.5, 2)]))
        self.settle(1)
        episode = Episode(self.task.instruction, kind)
        while len(episode) < 10:
            observation, action_A = self.observation(), self.decide().action
            columns = {"observation.state": observation["state"], "action": action_A[None].astype(np.float32)}
            episode.add_row(columns, observation["images"])
            if self.step(action_A, render=True):
                return episode
        return None


class Toy(Simulator):
    name = "toy"
    suites = ("reach",)
    default_task = ("reach", 1)
    protocols: Mapping[str, EvaluationProtocol] = {
        "quick": EvaluationProtocol("quick", 3, 2, 8, {"reach": 40}, 1),
        "patient": EvaluationProtocol("patient", 5, 0, None, {"reach": 80}, 2),
    }
    robot = RobotConfig(
        name="toy", control_hz=10.0, cameras=(Camera("top", 0, 0, SIZE, SIZE),),
        state=(Dimension("x", "m"), Dimension("y", "m")),
        action=(Dimension("dx", "1", delta=True), Dimension("dy", "1", delta=True), Dimension("gripper", "1")),
        gripper=GripperRule("gripper", 1.0, 0.0, -1.0, 1.0, two_valued=True),
    )  # fmt: skip
    packages = ("no-such-package",)
    recording = Recording("point", 10, ("usual",), {"near": 1.0})

    def tasks(self, suite: str) -> Sequence[Task]:
        return [Task(suite, index, f"reach_{index}", f"reach target {index}") for index in range(2)]

    def make_env(self, task: Task, **options: Any) -> ToyEnv:
        return ToyEnv(task, options.get("render", True))

    def renderer(self) -> str | None:
        return None


class Unfinished(Simulator):
    name = "unfinished"
