# SPDX-License-Identifier: Apache-2.0
"""What a policy returns, and how a control loop consumes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lightwam.errors import ArgumentError
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


def _checked_steps(name: str, steps: object, horizon: object = None) -> int:
    """A number of actions, 1 to `horizon` where that is known. Raises ArgumentError."""
    most = int(horizon) if isinstance(horizon, (int, np.integer)) else None
    whole = isinstance(steps, (int, np.integer)) and not isinstance(steps, bool)
    if not whole or int(steps) < 1 or (most is not None and int(steps) > most):  # type: ignore[call-overload]
        limit = "of at least 1" if most is None else f"from 1 to {most}, the chunk's length"
        raise ArgumentError(f"{name} is {steps!r}; expected a whole number {limit}, or None for the policy's own")
    return int(steps)  # type: ignore[call-overload, no-any-return]


class ChunkExecutor:
    """Hands out one action per control step and calls the policy again every `replan_steps` actions.

    It calls it at once when the policy's instruction is another one than that of the chunk.

    policy: its `infer(observation)` returns an ActionChunk. Its `instruction` and `horizon`, if it has them, are those
        of `lightwam.runtime.Policy`.
    replan_steps: actions to execute of each chunk, 1 to the policy's horizon; None takes each chunk's own figure. For a
        policy that does not tell its horizon, more means the whole chunk. `replan` is its old name.

    Raises ArgumentError (also a ValueError).
    """

    def __init__(self, policy: ChunkSource, replan_steps: int | None = None, *, replan: int | None = None) -> None:
        if replan is not None:
            warn_old_name("replan", "replan_steps")
            replan_steps = replan
        if isinstance(policy, type) or not callable(getattr(policy, "infer", None)):
            raise ArgumentError(f"policy is {policy!r}, which has no infer; give a lightwam.runtime.Policy")
        if replan_steps is not None:
            replan_steps = _checked_steps("replan_steps", replan_steps, getattr(policy, "horizon", None))
        self._policy = policy
        self._replan_steps = replan_steps
        self._chunk: ActionChunk | None = None
        self._instruction: object = None
        self._count = 0
        self._next = 0

    @property
    def chunk(self) -> ActionChunk | None:
        """The chunk being executed; None before the first step and after `reset`."""
        return self._chunk

    @property
    def needs_observation(self) -> bool:
        """True when the next `step` calls the policy, so that cameras need be read only then."""
        return self._chunk is None or self._next >= self._count or self._instruction != self._current_instruction()

    def _current_instruction(self) -> object:
        return getattr(self._policy, "instruction", None)

    def step(self, observation: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> NDArray[np.float32]:
        """The action of this control step, float32 [A]. A callable observation is called only when it is needed.

        Raises what the policy's `infer` raises; the next step then calls it again. ArgumentError for a chunk without
        actions, or whose own `replan_steps` is none.
        """
        if self.needs_observation:
            self._chunk = None
            seen = observation() if callable(observation) else observation
            # Noted before the call: an instruction that another thread sets meanwhile counts as a change.
            self._instruction = self._current_instruction()
            chunk = self._policy.infer(seen)
            count = self._replan_steps or _checked_steps("the chunk's replan_steps", chunk.replan_steps)
            if len(chunk.actions) == 0:
                raise ArgumentError("the policy's chunk has no actions; expected at least one")
            self._chunk, self._count, self._next = chunk, min(count, len(chunk.actions)), 0
        assert self._chunk is not None
        action: NDArray[np.float32] = self._chunk.actions[self._next]
        self._next += 1
        return action

    def reset(self) -> None:
        """Forgets the rest of the chunk. Call it between episodes."""
        self._chunk = None
        self._next = 0
