# SPDX-License-Identifier: Apache-2.0
"""Corrections of a policy's own roll-outs: it drives for a while, then the expert takes over and is recorded."""

from __future__ import annotations

import numpy as np

from lightwam.data.episode_files import Episode
from lightwam.sim.env import Recorder
from lightwam.sim.libero.env import LiberoEnv
from lightwam.sim.libero.placements import WIDE, Spread
from lightwam.sim.libero.scenarios import NoiseConfig, ScenarioRunner
from lightwam.sim.policies import PolicyLike

LONGEST_POLICY_STEPS = 180  # control steps a policy may drive before the expert takes over
SETTLE_STEPS = 30


class CorrectionRunner(Recorder):
    """Records what the expert does from states that a policy brought about. One re-used environment."""

    def __init__(self, env: LiberoEnv, policy: PolicyLike, spread: Spread = WIDE, any_target: bool = False) -> None:
        self.env, self.policy = env, policy
        self.scenarios = ScenarioRunner(env, NoiseConfig(largest_sigma=0.2), spread, any_target)

    def record(self, kind: str, rng: np.random.Generator) -> Episode | None:
        """One correction from a fresh random state; None where the policy had finished, or the expert failed."""
        self.scenarios.start(rng)
        self.env.settle(SETTLE_STEPS)
        self.policy.set_instruction(self.env.task.instruction)
        self.policy.reset()
        steps = self._let_policy_drive(int(rng.integers(8, LONGEST_POLICY_STEPS)))
        if self.env.succeeded():
            return None
        episode = self.scenarios.run_expert(kind, rng)
        if episode is not None:
            episode.info["policy_steps"] = steps
        return episode

    def close(self) -> None:
        self.env.close()

    def _let_policy_drive(self, limit: int) -> int:
        """Closed loop for at most `limit` control steps; returns the steps taken."""
        steps = 0
        while steps < limit:
            actions_HA = np.asarray(self.policy.infer(self.env.observation()).actions)
            count = min(self.policy.replan_steps, len(actions_HA), limit - steps)
            for number in range(count):
                steps += 1
                if self.env.step(actions_HA[number], render=number == count - 1):
                    return steps
        return steps
