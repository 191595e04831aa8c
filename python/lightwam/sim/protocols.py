# SPDX-License-Identifier: Apache-2.0
"""How an evaluation runs. Figures of two protocols differ: the name goes with every result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightwam.errors import ConfigError


@dataclass(frozen=True)
class EvaluationProtocol:
    """How a trial runs. Steps are control steps."""

    name: str
    trials: int  # a task
    settle_steps: int  # standing still with an open gripper before the policy starts
    replan_steps: int | None  # most actions executed of a chunk; None: as many as the policy chooses
    max_steps: Mapping[str, int]  # a suite
    seed: int

    def steps_to_execute(self, policy_steps: int) -> int:
        """Actions executed of every chunk: the policy's own number, at most the protocol's."""
        return policy_steps if self.replan_steps is None else min(policy_steps, self.replan_steps)

    def step_limit(self, suite: str) -> int:
        """Most control steps of a trial after settling. Raises ConfigError for a suite without a limit."""
        if suite not in self.max_steps:
            raise ConfigError(
                f"protocol {self.name!r} has no step limit for {suite!r}: known are {list(self.max_steps)}"
            )
        return self.max_steps[suite]
