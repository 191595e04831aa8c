# SPDX-License-Identifier: Apache-2.0
"""What a policy answers, and how a control loop consumes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ActionChunk:
    """The next actions of a policy.

    actions: float32 [H, A] in robot units, first action first (H horizon, A action width).
    timings: seconds of wall time by stage, in the order of execution, and "total". Stages of a GPU: see `Policy.infer`.
    replan: how many of the actions to execute before asking again, 1 to H.
    """

    actions: NDArray[np.float32]
    timings: dict[str, float]
    replan: int


class ChunkSource(Protocol):
    """What a ChunkExecutor asks: `lightwam.runtime.Policy`, or anything that answers like it."""

    def infer(self, observation: Mapping[str, Any]) -> ActionChunk: ...


class ChunkExecutor:
    """Hands out one action per control step and asks the policy again every `replan` actions.

    policy: answers `infer(observation)`.
    replan: actions to execute of each chunk; None takes each chunk's own figure. At least 1; more than the horizon
        means the whole chunk.
    """

    def __init__(self, policy: ChunkSource, replan: int | None = None) -> None:
        if replan is not None and replan < 1:
            raise ValueError(f"replan is {replan}; expected at least 1, or None for the policy's own")
        self._policy = policy
        self._replan = replan
        self._chunk: ActionChunk | None = None
        self._next = 0

    @property
    def chunk(self) -> ActionChunk | None:
        """The chunk being executed; None before the first step and after `reset`."""
        return self._chunk

    @property
    def needs_observation(self) -> bool:
        """True when the next `step` asks the policy, so that cameras need be read only then."""
        if self._chunk is None:
            return True
        replan = self._chunk.replan if self._replan is None else self._replan
        return self._next >= min(replan, len(self._chunk.actions))

    def step(self, observation: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> NDArray[np.float32]:
        """The action of this control step, float32 [A]. A callable observation is called only when it is needed.

        Raises what the policy's `infer` raises; the next step then asks again.
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
