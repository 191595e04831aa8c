# SPDX-License-Identifier: Apache-2.0
"""What a policy returns, and how a control loop consumes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lightwam.runtime.deprecated import old_name, warn_old_name


@dataclass(frozen=True, eq=False)
class ActionChunk:
    """The next actions of a policy.

    actions: float32 [H, A] in robot units, first action first (H horizon, A action width).
    timings: seconds of wall time by stage, in the order of execution, and "total". Stages of a GPU: see `Policy.infer`.
    replan_steps: how many of the actions to execute before the next `infer`, 1 to H.
    """

    actions: NDArray[np.float32]
    timings: dict[str, float]
    replan_steps: int

    replan = old_name("replan", "replan_steps")


class ChunkSource(Protocol):
    """What a ChunkExecutor calls: `lightwam.runtime.Policy`, or anything with the same `infer`."""

    def infer(self, observation: Mapping[str, Any]) -> ActionChunk: ...


class ChunkExecutor:
    """Hands out one action per control step and calls the policy again every `replan_steps` actions.

    policy: its `infer(observation)` returns an ActionChunk.
    replan_steps: actions to execute of each chunk, at least 1; None takes each chunk's own figure. More than the
        horizon means the whole chunk. `replan` is its old name.
    """

    def __init__(self, policy: ChunkSource, replan_steps: int | None = None, *, replan: int | None = None) -> None:
        if replan is not None:
            warn_old_name("replan", "replan_steps")
            replan_steps = replan
        if replan_steps is not None and replan_steps < 1:
            raise ValueError(f"replan_steps is {replan_steps}; expected at least 1, or None for the policy's own")
        self._policy = policy
        self._replan_steps = replan_steps
        self._chunk: ActionChunk | None = None
        self._next = 0

    @property
    def chunk(self) -> ActionChunk | None:
        """The chunk being executed; None before the first step and after `reset`."""
        return self._chunk

    @property
    def needs_observation(self) -> bool:
        """True when the next `step` calls the policy, so that cameras need be read only then."""
        if self._chunk is None:
            return True
        count = self._chunk.replan_steps if self._replan_steps is None else self._replan_steps
        return self._next >= min(count, len(self._chunk.actions))

    def step(self, observation: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> NDArray[np.float32]:
        """The action of this control step, float32 [A]. A callable observation is called only when it is needed.

        Raises what the policy's `infer` raises; the next step then calls it again.
        """
        if self.needs_observation:
            self._chunk = None
            seen = observation() if callable(observation) else observation
            self._chunk = self._policy.infer(seen)
            self._next = 0
        assert self._chunk is not None
        action: NDArray[np.float32] = self._chunk.actions[self._next]
        self._next += 1
        return action

    def reset(self) -> None:
        """Forgets the rest of the chunk. Call it between episodes."""
        self._chunk = None
        self._next = 0
