# SPDX-License-Identifier: Apache-2.0
"""What the closed loop asks of a policy, and two baselines that see no image.

Legend: H action horizon, A action width 7, P state width 8, T control steps of a demonstration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from lightwam.errors import ConfigError, DeviceError, EngineError
from lightwam.sim.libero.env import ACTION_WIDTH, CLOSE_GRIPPER, OPEN_GRIPPER, Observation

Array = npt.NDArray[Any]


class ChunkLike(Protocol):
    """One predicted action chunk."""

    @property
    def actions(self) -> Array:
        """float32 [H, A], environment units: 6 deltas in +-1, gripper -1 open, +1 close."""


class PolicyLike(Protocol):
    """Anything that drives: `lightwam.runtime.Policy`, a baseline, a remote policy."""

    @property
    def replan_steps(self) -> int:
        """How many actions of a chunk to execute before the next one."""

    def set_instruction(self, text: str, /) -> None:
        """The task, in words."""

    def infer(self, observation: Observation, /) -> ChunkLike:
        """The next chunk."""

    def reset(self) -> None:
        """Forget the episode."""


@dataclass(frozen=True)
class Chunk:
    """A plain action chunk, float32 [H, A] in environment units."""

    actions: Array
    timings: Mapping[str, float] = field(default_factory=dict)


def runs_on(policy: PolicyLike) -> str:
    """One line on what computes a policy: an engine's run path; baselines are NumPy."""
    return str(getattr(policy, "execution_info", "NumPy"))


class ReplayPolicy:
    """Replays one demonstration open loop, whatever it sees: actions [T, A] in environment units."""

    def __init__(self, actions_TA: Array, horizon: int = 16, replan_steps: int = 10) -> None:
        if actions_TA.ndim != 2 or actions_TA.shape[1] != ACTION_WIDTH or len(actions_TA) == 0:
            raise ConfigError(f"replay actions have shape {actions_TA.shape}: give [steps, {ACTION_WIDTH}]")
        self.replan_steps = min(replan_steps, horizon)
        self._actions, self._horizon, self._next = actions_TA.astype(np.float32), horizon, 0

    def set_instruction(self, text: str, /) -> None:
        """Ignored."""

    def reset(self) -> None:
        """Back to the demonstration's first action."""
        self._next = 0

    def infer(self, observation: Observation, /) -> Chunk:
        """The next H actions; past the end it stands still with an open gripper."""
        rest = self._actions[self._next : self._next + self._horizon]
        chunk = np.zeros((self._horizon, ACTION_WIDTH), dtype=np.float32)
        chunk[:, 6] = OPEN_GRIPPER
        chunk[: len(rest)] = rest
        self._next += self.replan_steps
        return Chunk(chunk)


class BlindPolicy:
    """A multilayer perceptron from the robot state alone to a chunk: it sees no image and no instruction.

    Hidden layers use tanh-GELU; the state is standardised before, the actions de-standardised after; the last column
    is an open (1) / close (0) score.
    """

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        try:
            self._mean, self._std = tensors["state_mean"], tensors["state_std"]
            self._action_mean, self._action_std = tensors["action_mean"], tensors["action_std"]
            self._layers = [
                (tensors[f"weight_{i}"], tensors[f"bias_{i}"]) for i in range(int(tensors["layers"]))
            ]  # weight [out, in]
            self.replan_steps, self._horizon = int(tensors["replan"]), int(tensors["horizon"])
        except KeyError as error:
            raise ConfigError(f"blind policy file lacks {error}: train it again with `lightwam train blind`") from error

    def set_instruction(self, text: str, /) -> None:
        """Ignored."""

    def reset(self) -> None:
        """Nothing to forget."""

    def infer(self, observation: Observation, /) -> Chunk:
        """A chunk from observation["state"] [P]."""
        x = (np.asarray(observation["state"], dtype=np.float32) - self._mean) / self._std
        for number, (weight, bias) in enumerate(self._layers):
            x = weight @ x + bias
            if number + 1 < len(self._layers):
                x = 0.5 * x * (1.0 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))
        actions = x.reshape(self._horizon, ACTION_WIDTH) * self._action_std + self._action_mean
        actions[:, 6] = np.where(actions[:, 6] > 0.5, OPEN_GRIPPER, CLOSE_GRIPPER)
        return Chunk(actions.astype(np.float32))


def load_policy(path: Path, *, device: str = "cpu", threads: int | None = None, precision: str = "auto") -> PolicyLike:
    """A policy from a file: an engine (.lwam), or a baseline (.npz with `kind` blind or replay).

    device, threads, precision: as of `lightwam.runtime.Policy`. A baseline runs on the processor, in NumPy.

    Raises EngineError where the file is missing, ConfigError where it is no policy, DeviceError where the device cannot
    run it.
    """
    if not path.is_file():
        raise EngineError(f"policy file {path} does not exist: give an engine (.lwam) or a baseline (.npz)")
    if path.suffix != ".npz":
        from lightwam.runtime import Policy

        engine: PolicyLike = Policy(path, device=device, threads=threads, precision=precision)
        return engine
    if device == "cuda":
        raise DeviceError(f"baseline {path} runs on the processor only: pass --device cpu, or an engine (.lwam)")
    try:
        with np.load(path, allow_pickle=False) as file:
            tensors = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, BadZipFile) as error:
        raise ConfigError(
            f"baseline file {path} is damaged or no .npz file: make it again with `lightwam train`"
        ) from error
    kind = str(tensors.get("kind"))
    if kind == "blind":
        return BlindPolicy(tensors)
    if kind == "replay" and "actions" in tensors:
        return ReplayPolicy(tensors["actions"])
    raise ConfigError(f"baseline file {path} has kind {kind!r}: blind, and replay with actions, are known")
