# SPDX-License-Identifier: Apache-2.0
"""The LIBERO evaluation protocols in use elsewhere. Their figures differ: the name goes with every result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lightwam.errors import ConfigError


@dataclass(frozen=True)
class EvaluationProtocol:
    """How a trial runs. Steps are control steps at 20 Hz."""

    name: str
    trials: int  # a task
    settle_steps: int  # standing still with an open gripper before the policy starts
    replan_steps: int | None  # most actions executed of a chunk; None: as many as the policy wants
    max_steps: Mapping[str, int]  # a suite
    seed: int

    def steps_to_execute(self, policy_replan: int) -> int:
        """Actions executed of every chunk: the policy's own number, at most the protocol's."""
        return policy_replan if self.replan_steps is None else min(policy_replan, self.replan_steps)

    def step_limit(self, suite: str) -> int:
        """Most control steps of a trial after settling. Raises ConfigError for a suite without a limit."""
        if suite not in self.max_steps:
            raise ConfigError(
                f"protocol {self.name!r} has no step limit for {suite!r}: known are {list(self.max_steps)}"
            )
        return self.max_steps[suite]


def _limits(spatial: int, object_: int, goal: int, ten: int, ninety: int) -> Mapping[str, int]:
    names = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
    return MappingProxyType(dict(zip(names, (spatial, object_, goal, ten, ninety), strict=True)))


PROTOCOLS: Mapping[str, EvaluationProtocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            EvaluationProtocol("paper", 50, 30, 10, _limits(400, 400, 400, 700, 700), 42),
            EvaluationProtocol("openpi", 50, 10, 5, _limits(220, 280, 300, 520, 400), 7),
            EvaluationProtocol("lerobot", 10, 10, None, _limits(280, 280, 300, 520, 400), 0),
        )
    }
)


def protocol(name: str) -> EvaluationProtocol:
    """The preset `name`. Raises ConfigError where there is none."""
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}: choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
