# SPDX-License-Identifier: Apache-2.0
"""What the closed loop requires of a policy, and two baselines that see no image.

Legend: K instructions, H action horizon, A action width, P state width, T control steps of a demonstration.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from lightwam.arithmetic import default_arithmetic
from lightwam.config.robot import RobotConfig
from lightwam.errors import ConfigError, DeviceError, EngineError
from lightwam.file_kind import file_kind
from lightwam.files import unreadable
from lightwam.runtime import ActionChunk, Observation

Array = npt.NDArray[Any]


class ChunkLike(Protocol):
    """One predicted action chunk."""

    @property
    def actions(self) -> Array:
        """float32 [H, A], in the units of the robot or simulator that it drives."""


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


def runs_on(policy: PolicyLike) -> str:
    """One line on what computes a policy: an engine's `execution_info`; baselines are NumPy."""
    return str(getattr(policy, "execution_info", "NumPy"))


class ReplayPolicy:
    """Replays a demonstration open loop, whatever it sees: actions [T, A] in the robot's units.

    demonstrations: instruction -> actions; a single one is replayed whatever the instruction.
    """

    @default_arithmetic
    def __init__(
        self, demonstrations: Mapping[str, Array], robot: RobotConfig, horizon: int = 16, replan_steps: int = 10
    ) -> None:
        width = len(robot.action)
        for actions_TA in demonstrations.values():
            if actions_TA.ndim != 2 or actions_TA.shape[1] != width or len(actions_TA) == 0:
                raise ConfigError(f"replay actions have shape {actions_TA.shape}: give [steps, {width}]")
        self.replan_steps = min(replan_steps, horizon)
        self._robot, self._horizon, self._next = robot, horizon, 0
        self._demonstrations = {text: actions.astype(np.float32) for text, actions in demonstrations.items()}
        self._actions = next(iter(self._demonstrations.values()))

    def set_instruction(self, text: str, /) -> None:
        """Choose the instruction's demonstration. Raises ConfigError where there are several, and none is of it."""
        if len(self._demonstrations) == 1:
            return
        if text not in self._demonstrations:
            known = len(self._demonstrations)
            raise ConfigError(
                f"none of the {known} replayed demonstrations is of {text!r}: make it with `lightwam train replay`"
            )
        self._actions = self._demonstrations[text]

    def reset(self) -> None:
        """Back to the demonstration's first action."""
        self._next = 0

    def infer(self, observation: Observation, /) -> ActionChunk:
        """The next H actions; past the end it stands still with an open gripper."""
        rest = self._actions[self._next : self._next + self._horizon]
        chunk = np.tile(self._rest(), (self._horizon, 1))
        chunk[: len(rest)] = rest
        self._next += self.replan_steps
        return ActionChunk(chunk, {}, self.replan_steps)

    def _rest(self) -> Array:
        """Standing still with an open gripper, [A]."""
        rest_A: Array = self._actions[-1].copy()
        rest_A[[dimension.delta for dimension in self._robot.action]] = 0.0
        if self._robot.gripper is not None:
            rest_A[self._robot.gripper_column] = self._robot.gripper.robot_open
        return rest_A


class BlindPolicy:
    """A multilayer perceptron from the robot state, and which instruction of its data it is, to a chunk: no image.

    Hidden layers use tanh-GELU; the state is standardised before, the actions de-standardised after; then the robot's
    gripper rule applies.
    """

    def __init__(self, tensors: Mapping[str, Array], robot: RobotConfig) -> None:
        self._robot = robot
        try:
            self._mean, self._std = tensors["state_mean"], tensors["state_std"]
            self._action_mean, self._action_std = tensors["action_mean"], tensors["action_std"]
            self._layers = [
                (tensors[f"weight_{i}"], tensors[f"bias_{i}"]) for i in range(int(tensors["layers"]))
            ]  # weight [out, in]
            self.replan_steps, self._horizon = int(tensors["replan"]), int(tensors["horizon"])
        except KeyError as error:
            raise ConfigError(f"blind policy file lacks {error}: train it again with `lightwam train blind`") from error
        self._instructions = [str(text) for text in tensors.get("instructions", ())]  # none where there was but one
        self._told_K = np.zeros(len(self._instructions), np.float32)

    def set_instruction(self, text: str, /) -> None:
        """Which of the data's instructions. Raises ConfigError where these are several, and it is none of them."""
        if self._instructions and text not in self._instructions:
            raise ConfigError(f"the blind policy was trained on other instructions than {text!r}: train it on this one")
        self._told_K = np.array([text == each for each in self._instructions], np.float32)

    def reset(self) -> None:
        """Nothing to forget."""

    @default_arithmetic
    def infer(self, observation: Observation, /) -> ActionChunk:
        """A chunk from observation["state"] [P]."""
        state_P = (np.asarray(observation["state"], dtype=np.float32) - self._mean) / self._std
        x = np.concatenate([state_P, self._told_K])
        for number, (weight, bias) in enumerate(self._layers):
            x = weight @ x + bias
            if number + 1 < len(self._layers):
                x = 0.5 * x * (1.0 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))
        actions = x.reshape(self._horizon, -1) * self._action_std + self._action_mean
        return ActionChunk(self._robot.to_robot(actions).astype(np.float32), {}, self.replan_steps)


def load_policy(
    path: Path,
    robot: RobotConfig,
    *,
    replan_limit: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    precision: str = "auto",
) -> PolicyLike:
    """A policy from a file: an engine (.lwam), or a baseline (.npz with `kind` blind or replay).

    robot, replan_limit: what a baseline drives, and the most actions of a chunk that are executed, which a replayed
    demonstration must know. device, threads, precision: as of `lightwam.runtime.Policy`; a baseline runs on the CPU.

    Raises EngineError where the file is missing, ConfigError where it is no policy, DeviceError where the device cannot
    run it.
    """
    if not path.is_file():
        raise EngineError(f"policy file {path} does not exist: give an engine (.lwam) or a baseline (.npz)")
    kind = file_kind(path).name
    if kind == "engine" or (kind != "npz" and path.suffix != ".npz"):
        from lightwam.runtime import Policy

        engine: PolicyLike = Policy(path, device=device, threads=threads, precision=precision)
        return engine
    if device == "cuda":
        raise DeviceError(f"baseline {path} runs on the CPU only: pass --device cpu, or an engine (.lwam)")
    try:
        with np.load(path, allow_pickle=False) as file:
            tensors = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, BadZipFile) as error:
        told = unreadable(path, error, "make it again with `lightwam train blind` or `lightwam train replay`", ("npz",))
        raise ConfigError(f"baseline file {path} is damaged or no .npz file: it is {told}") from error
    kind = str(tensors.get("kind"))
    if kind == "blind":
        return BlindPolicy(tensors, robot)
    if kind == "replay":
        return ReplayPolicy(_demonstrations(path, tensors), robot, replan_steps=min(10, replan_limit or 10))
    raise ConfigError(f"baseline file {path} has kind {kind!r}: blind and replay are known")


def _demonstrations(path: Path, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Instruction -> actions; a file of one demonstration of before has no instruction."""
    if "actions" in tensors:
        return {"": tensors["actions"]}
    texts = tensors.get("instructions", np.array([]))
    names = [f"actions_{number}" for number in range(texts.size)]
    if not names or any(name not in tensors for name in names):
        raise ConfigError(f"replay file {path} lacks demonstrations: make it again with `lightwam train replay`")
    return {str(text): tensors[name] for text, name in zip(texts.ravel(), names, strict=True)}
