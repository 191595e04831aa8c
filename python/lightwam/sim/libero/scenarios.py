# SPDX-License-Identifier: Apache-2.0
"""What is recorded: whole episodes and short clips, driven by the expert under noise, with clean labels.

A row is one rendered decision step: images and state, and the expert's clean labels of the K = 4 control steps that
follow. The executed actions carry noise, so the rows visit states that a policy's own mistakes lead to.
Legend: K control steps a row, A action width 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lightwam.data.episode_files import Episode
from lightwam.errors import SimulatorError
from lightwam.sim.env import Array, Decision, Recorder
from lightwam.sim.libero.env import ACTION_WIDTH, CLOSE_GRIPPER, OPEN_GRIPPER, ROBOT, LiberoEnv
from lightwam.sim.libero.expert import PickPlaceExpert
from lightwam.sim.libero.fidelity import fingerprint
from lightwam.sim.libero.goals import refusal_of_clips
from lightwam.sim.libero.placements import WIDE, Spread, random_state
from lightwam.sim.libero.sequence import GoalExpert, expert_of
from lightwam.sim.libero.targets import commands, draw_target, exchanged_state

SUBSTEPS = 4
ROW_HZ = int(ROBOT.control_hz) // SUBSTEPS
CLIP_KINDS = {"pick": 0.5, "empty": 0.25, "dropped": 0.1, "carry": 0.15}  # shares of the clips
MAX_ROWS = {"full": 60, "pick": 24, "empty": 24, "dropped": 50, "carry": 30, "correction": 50}

_NOISE_SHARE = {"approach": 1.0, "carry": 1.0, "lift": 0.6, "retreat": 0.6, "descend": 0.35, "lower": 0.35}
_NEAR_GRASP = 0.12


@dataclass(frozen=True)
class NoiseConfig:
    """Noise on executed actions (in action units, +-1)."""

    largest_sigma: float = 0.4  # the Ornstein-Uhlenbeck sigma of an episode is uniform below this
    reversion: float = 0.15
    rotation_share: float = 0.3
    kick_probability: float = 0.012  # a step, in transport; a kick lasts kick_steps
    kick_steps: int = 4
    largest_drift_steps: int = 14  # random start drift of whole episodes


class ActionNoise:
    """Ornstein-Uhlenbeck noise plus rare kicks, small near the grasp. One object an episode."""

    def __init__(self, rng: np.random.Generator, config: NoiseConfig) -> None:
        self._rng, self._config = rng, config
        self._sigma = float(rng.uniform(0.0, config.largest_sigma))
        self._state = np.zeros(6)
        self._kick, self._kick_left = np.zeros(6), 0

    def apply(self, decision: Decision) -> Array:
        """The action [7] to execute for a clean decision."""
        c, rng = self._config, self._rng
        drive = self._sigma * np.sqrt(2 * c.reversion - c.reversion**2)
        self._state = (1.0 - c.reversion) * self._state + drive * rng.normal(size=6)
        share = _NOISE_SHARE.get(decision.phase, _NEAR_GRASP)
        if self._kick_left == 0 and rng.random() < c.kick_probability * share:
            self._kick = np.concatenate([rng.uniform(-1.5, 1.5, 3), np.zeros(3)])
            self._kick_left = c.kick_steps
        noise = share * self._state
        if self._kick_left > 0:
            self._kick_left -= 1
            noise = noise + self._kick * max(share, 0.5)
        noise[3:] *= c.rotation_share
        action: Array = decision.action.copy()
        action[:6] = np.clip(action[:6] + noise, -1.0, 1.0)
        return action


class ScenarioRunner(Recorder):
    """Records episodes of one task in one re-used environment (rendering, soft resets, joint noise).

    any_target: the commanded object is often another one of the scene (`targets`).
    """

    def __init__(
        self, env: LiberoEnv, noise: NoiseConfig | None = None, spread: Spread = WIDE, any_target: bool = False
    ) -> None:
        self.env, self.spread = env, spread
        self.noise_config = noise or NoiseConfig()
        self._scene = {"scene": env.task.name, "simulator": fingerprint(env)}
        env.seed(0)  # the expert measures shapes in this placement: the same rounding in every process
        env.reset()
        self.commands = commands(env) if any_target else {}
        self.experts = {name: PickPlaceExpert(env, target=name) for name in self.commands}
        self.expert: PickPlaceExpert | GoalExpert
        self.expert = next(iter(self.experts.values())) if any_target else expert_of(env)
        self._parts = len(self.expert.stages) if isinstance(self.expert, GoalExpert) else 1
        # to 0.1 m, so that it is 0 on the floor: what stands is a few millimetres off
        self._ground = 0.0 if isinstance(self.expert, GoalExpert) else round(self.expert.target_bottom(), 1)

    def record(self, kind: str, rng: np.random.Generator) -> Episode | None:
        """One episode of `kind` from a fresh random state; None where the expert did not reach the kind's end."""
        prepare = self._preparations().get(kind)
        if prepare is None:
            raise SimulatorError(f"unknown episode kind {kind!r}: choose one of {', '.join(self._preparations())}")
        if kind != "full":
            self._picker()
        self.start(rng)
        self.env.settle(10, render_last=False)
        if not prepare(rng):
            return None
        return self.run_expert(kind, rng)

    def start(self, rng: np.random.Generator) -> None:
        """Bring the environment into a fresh random state; with `any_target`, command an object first."""
        if not self.commands:
            self.env.set_state(random_state(self.env, rng, self.spread))
            return
        name = draw_target(list(self.commands), rng)
        self.env.command(name, self.commands[name])
        self.expert = self.experts[name]
        self.env.set_state(exchanged_state(self.env, rng, self.spread))

    def close(self) -> None:
        self.env.close()

    def run_expert(self, kind: str, rng: np.random.Generator) -> Episode | None:
        """Record the expert under noise from the present state until the kind's end; None where it is not reached."""
        env, expert = self.env, self.expert
        noise = ActionNoise(rng, self.noise_config)
        episode = Episode(task=env.task.instruction, kind=kind, info=dict(self._scene))
        gripper = OPEN_GRIPPER if expert.gripper_command() <= 0.0 else CLOSE_GRIPPER
        env.step([0, 0, 0, 0, 0, 0, gripper], render=True)
        rows_after_end = -1
        for _ in range(MAX_ROWS[kind] * self._parts):
            observation = env.observation()
            labels_KA = np.empty((SUBSTEPS, ACTION_WIDTH), dtype=np.float32)
            privileged = self._privileged()
            for step in range(SUBSTEPS):
                decision = expert.decide()
                labels_KA[step] = ROBOT.to_data(decision.action.astype(np.float32))
                env.step(noise.apply(decision), render=step == SUBSTEPS - 1)
            columns = {"observation.state": observation["state"], "action": labels_KA, **privileged}
            episode.add_row(columns, dict(observation["images"]))
            rows_after_end += self._ended(kind) or rows_after_end >= 0
            if rows_after_end >= (1 if kind in ("pick", "empty") else 2):
                return episode
        return None

    # -- where a kind starts and ends -----------------------------------------------------------------------------

    def _preparations(self) -> dict[str, Callable[[np.random.Generator], bool]]:
        return {
            "full": self._drift,
            "pick": self._start_near,
            "empty": self._start_empty,
            "dropped": self._start_dropped,
            "carry": self._start_carrying,
        }

    def _ended(self, kind: str) -> bool:
        if kind in ("pick", "empty"):
            return self.expert.holding() and self._picker().target_bottom() > self._ground + 0.05
        return self.env.succeeded() and not self.expert.holding()

    def _drift(self, rng: np.random.Generator) -> bool:
        """A constant random motion for a random time, so that the arm does not always start in the same pose."""
        action = np.zeros(ACTION_WIDTH)
        action[:3] = rng.uniform(-1.0, 1.0, 3) * rng.uniform(0.2, 1.0)
        action[2] *= 0.6
        action[6] = OPEN_GRIPPER
        for _ in range(int(rng.integers(self.noise_config.largest_drift_steps + 1))):
            self.env.step(action)
        return True

    def _start_near(self, rng: np.random.Generator) -> bool:
        """An open gripper somewhere above or beside the top of the object."""
        radius, angle = 0.07 * np.sqrt(rng.random()), rng.uniform(-np.pi, np.pi)
        height = rng.uniform(0.05, 0.16) if radius > 0.012 else rng.uniform(0.0, 0.12)
        return self._drive_to([radius * np.cos(angle), radius * np.sin(angle), height], OPEN_GRIPPER)

    def _start_empty(self, rng: np.random.Generator) -> bool:
        """A gripper that closed on nothing: beside, over or (having pushed it) against the object."""
        radius, angle = rng.uniform(0.01, 0.075), rng.uniform(-np.pi, np.pi)
        height = rng.uniform(-0.01, 0.12)
        offset = [radius * np.cos(angle), radius * np.sin(angle), height]
        if not self._drive_to(offset, OPEN_GRIPPER):
            return False
        for _ in range(int(rng.integers(3, 10))):
            self.env.step([0, 0, rng.uniform(-0.1, 0.4), 0, 0, 0, CLOSE_GRIPPER])
        return not self.expert.holding()

    def _start_dropped(self, rng: np.random.Generator) -> bool:
        """The object slipped from the gripper somewhere on its way."""
        if not self._carry_for(int(rng.integers(1, 45))):
            return False
        for _ in range(int(rng.integers(3, 9))):
            self.env.step([*rng.uniform(-0.5, 0.5, 3), 0, 0, 0, OPEN_GRIPPER])
        return not self.env.succeeded()

    def _start_carrying(self, rng: np.random.Generator) -> bool:
        """The object in the gripper somewhere on its way, after a random sideways motion."""
        if not self._carry_for(int(rng.integers(4, 40))):
            return False
        direction = rng.uniform(-1.0, 1.0, 3) * [1.0, 1.0, 0.5]
        for _ in range(int(rng.integers(0, 14))):
            self.env.step([*direction, 0, 0, 0, CLOSE_GRIPPER])
        return self.expert.holding()

    def _carry_for(self, steps: int) -> bool:
        """Let the expert work, unrecorded, until `steps` control steps after it has grasped the object."""
        held = 0
        for _ in range(200):
            held += self.expert.holding()
            if held > steps:
                return True
            self.env.step(self.expert.decide().action)
        return False

    def _picker(self) -> PickPlaceExpert:
        if isinstance(self.expert, GoalExpert):
            raise SimulatorError(refusal_of_clips(self.env.task))
        return self.expert

    def _drive_to(self, offset: list[float], gripper: float, tolerance: float = 0.01) -> bool:
        """Move the grip site to the grasp point plus `offset` (m): over the top first, then down. At most 70 steps."""
        expert = self._picker()
        goal = expert.grasp_point() + np.asarray(offset)
        for _ in range(70):
            missing = goal - self.env.grip_position()
            if np.linalg.norm(missing) < tolerance:
                break
            if np.linalg.norm(missing[:2]) > 0.02:
                missing[2] = max(goal[2], expert.grasp_point()[2] + 0.1) - self.env.grip_position()[2]
            action = expert.upright_action(missing, gripper)
            self.env.step(action)
        return True

    def _privileged(self) -> dict[str, Array]:
        target, place = self.expert.target_xy(), self.expert.place_xy()
        return {"privileged.target_xy": target.astype(np.float32), "privileged.basket_xy": place.astype(np.float32)}
