# SPDX-License-Identifier: Apache-2.0
"""A simulator without physics for the tiny policy of `helpers.training`: it has nano's robot, and task 0 solves itself.

It fails where the process that drives it has imported PyTorch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from helpers.toy_sim import Toy, ToyEnv
from lightwam.config import LightWAMConfig
from lightwam.errors import SimulatorError
from lightwam.runtime import Observation
from lightwam.sim.env import EvaluationProtocol, Task

NAME = "helpers.arm_sim:Arm"  # for --sim
SIZE = 32  # pixels


class ArmEnv(ToyEnv):
    """Solved after three control steps in task 0, never in task 1."""

    def observation(self) -> Observation:
        images = {camera.name: np.zeros((SIZE, SIZE, 3), np.uint8) for camera in Arm.robot.cameras}
        return {"images": images, "state": np.zeros(len(Arm.robot.state), np.float32)}

    def step(self, action_A: Any, *, render: bool = False) -> bool:
        if "torch" in sys.modules:
            raise SimulatorError("PyTorch is in the simulator's process")
        assert len(action_A) == len(Arm.robot.action)
        return super().step(action_A, render=render)

    def succeeded(self) -> bool:
        return self.task.index == 0 and self.steps >= 3


class Arm(Toy):
    name = "arm"
    robot = LightWAMConfig.nano().robot
    protocols: Mapping[str, EvaluationProtocol] = {"quick": EvaluationProtocol("quick", 3, 0, None, {"reach": 4}, 1)}

    def make_env(self, task: Task, **options: Any) -> ArmEnv:
        return ArmEnv(task, options.get("render", True))
