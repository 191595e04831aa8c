# SPDX-License-Identifier: Apache-2.0
"""The policy a robot runs: one engine file, from camera pixels to actions, in C++."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn, SupportsIndex

import numpy as np

from lightwam.errors import (
    DeviceError,
    EngineError,
    InstructionError,
    ObservationError,
    PrecisionError,
    UnfamiliarInputWarning,
)
from lightwam.runtime.chunk import ActionChunk
from lightwam.runtime.deprecated import old_name
from lightwam.runtime.extension import missing_extension
from lightwam.runtime.observation import ObservationShape, check_observation
from lightwam.runtime.tuning import TaskTiming, Tuning

try:
    from lightwam.runtime import _engine
except ImportError as _error:
    raise missing_extension(_error) from None

_logger = logging.getLogger("lightwam.runtime")

DeviceName = Literal["cpu", "cuda", "auto"]
ColorOrder = Literal["rgb", "bgr"]
Unfamiliar = Literal["warn", "error", "ignore"]

_MAX_THREADS = 1024
_MAX_REPEATS = 10_000


def _thread_count(threads: object) -> int:
    """0 for None: the runtime then takes one thread per CPU core."""
    if threads is None:
        return 0
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= _MAX_THREADS:
        raise DeviceError(f"threads is {threads!r}; expected a whole number from 1 to {_MAX_THREADS}, or None")
    return threads


def _file_name(path: object) -> bytes:
    """The name of an engine file as the system knows it. Raises EngineError when `path` is no path."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise EngineError(f"engine path {path!r} is a {type(path).__name__}; expected the name of an engine file")
    name = os.fsencode(path)
    if b"\0" in name:
        raise EngineError(f"engine path {path!r} holds a zero byte; expected the name of an engine file")
    return name


def _warn(message: str) -> None:
    """What the runtime says of an unfamiliar input; its place is the first caller outside of this package."""
    level = 2
    frame = sys._getframe(1).f_back  # of the policy's method
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("lightwam."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UnfamiliarInputWarning, stacklevel=level + 1)


class Policy:
    """An engine file, loaded and ready.

    path: the engine file (`*.lwam`).
    device: "cpu", "cuda" (an engine made by `lightwam compile`, never the CPU instead), or "auto": a GPU if the driver,
        machine code for it and enough memory are there, else the CPU (the log says which, and why).
    threads: CPU threads; None takes one per core that this process may use. The actions do not depend on it.
    precision: "auto" takes the engine's own; "f32", "bf16", "f16", "int8" or "fp8" insist on it.
    color_order: the channels of all frames, "rgb" or "bgr" (OpenCV, many cameras).
    unfamiliar: what to do about a state far outside of the range that was seen in training, and about words that the
        text encoder never saw. "warn" (an UnfamiliarInputWarning, once for each number or word), "error"
        (ObservationError, InstructionError) or "ignore". Engines that do not tell ranges or words are not checked.

    Raises EngineError (missing, damaged, foreign or too new a file), PrecisionError, DeviceError; ObservationError for
    an unknown color_order or unfamiliar. Logs one line to the
    logger "lightwam.runtime" that says what runs and why. Calls from several threads are served one after the other.

    A policy works in the process that opened it (docs/reference/runtime.md, "Processes and threads"). In the child of a
    fork `set_instruction`, `infer` and `tune` raise DeviceError, as do pickle, copy and deepcopy: pass the path on.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str = "cpu",
        threads: int | None = None,
        precision: str = "auto",
        *,
        color_order: ColorOrder = "rgb",
        unfamiliar: Unfamiliar = "warn",
    ) -> None:
        if not isinstance(device, str):
            raise DeviceError(f"device is {device!r}; expected 'cpu', 'cuda' or 'auto'")
        if not isinstance(precision, str):
            raise PrecisionError(f"precision is {precision!r}; expected 'auto', 'f32', 'bf16', 'f16', 'int8' or 'fp8'")
        for name, choice, expected in (
            ("color_order", color_order, "'rgb' or 'bgr'"),
            ("unfamiliar", unfamiliar, "'warn', 'error' or 'ignore'"),
        ):
            if not isinstance(choice, str):
                raise ObservationError(f"{name} is {choice!r}; expected {expected}")
        self._path = path
        self._engine = _engine.Policy(
            _file_name(path),
            device,
            _thread_count(threads),
            precision,
            color_order=color_order,
            unfamiliar=unfamiliar,
            on_warning=_warn,
        )
        self._metadata: dict[str, Any] = json.loads(self._engine.document)
        policy = self._metadata["policy"]
        self._actions_shape = (int(policy["horizon"]), int(policy["action_width"]))
        self._replan_steps = int(policy["replan"])
        from_images = policy["starts_at"] == "images"
        channels, height, width = (int(size) for size in policy["latent_shape"])
        self._shape = ObservationShape(
            cameras=tuple(camera["name"] for camera in policy["cameras"]) if from_images else None,
            latents=None if from_images else (channels, height, width),
            state_width=int(policy["state_width"]),
        )
        _logger.info("%s", self._engine.execution_info)
        if self._engine.warning:
            _logger.warning("%s", self._engine.warning)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise DeviceError(
            "a policy cannot be pickled or copied, for its threads and memory are those of this process: pass the path "
            f"of its engine file on, and open it where it is used: Policy({os.fspath(self._path)!r})"
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """The engine's own document (engine-format.md), without its programs, launch plan and checksums.

        `metadata["policy"]["state"]` and `["action"]` list name, unit and range in training of each number; absent
        where the engine does not tell them.
        """
        return {key: value for key, value in self._metadata.items() if key not in ("programs", "gpu", "checksums")}

    @property
    def instructions(self) -> tuple[str, ...]:
        """The instructions whose context rows the engine carries. With a text encoder it takes any other as well."""
        return tuple(known["text"] for known in self._metadata["policy"]["instructions"])

    @property
    def instruction(self) -> str | None:
        """The instruction in force, as it was given; None before the first. Never waits for a chunk."""
        return self._engine.instruction or None

    @property
    def horizon(self) -> int:
        """How many actions a chunk has."""
        return self._actions_shape[0]

    @property
    def replan_steps(self) -> int:
        """How many actions of a chunk to execute before the next `infer`."""
        return self._replan_steps

    replan = old_name("replan", "replan_steps")
    run_path = old_name("run_path", "execution_info")

    @property
    def device(self) -> str:
        """What runs: "cpu" or "cuda"."""
        return self._engine.device

    @property
    def threads(self) -> int:
        """CPU threads; 0 on a GPU."""
        return self._engine.threads

    @property
    def execution_info(self) -> str:
        """One line: device, instruction set, threads and precision that this policy runs with, and why."""
        return self._engine.execution_info

    def set_instruction(self, text: str) -> None:
        """Choose what the robot is to do. An instruction set before costs nothing: its keys and values are kept.

        White space of any kind and length is one space, invisible and control characters are nothing, and letters are
        in Unicode's form NFKC (docs/reference/engine-format.md, "Text of an instruction").

        Raises InstructionError when `text` is not text, holds no word, is too long, or is unknown to an engine without
        a text encoder (the message names those it knows); the instruction in force then stays.
        """
        if not isinstance(text, str):
            raise InstructionError(f"the instruction is a {type(text).__name__}; expected a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InstructionError(f"the instruction {text!r} is not valid text: {error.reason}") from None
        self._engine.set_instruction(text)

    def infer(self, observation: Mapping[str, Any], *, by_stage: bool = False) -> ActionChunk:
        """One action chunk from `{"images": {camera: uint8 RGB [h, w, 3]}, "state": [P]}` (see `Observation`).

        by_stage: time stages on a GPU too. There the chunk is one CUDA graph, which reads no clock; this takes another
        one, which reads the GPU's clock between stages and runs them one after the other.

        Raises ObservationError for anything missing, unknown, of a wrong type or size, or not finite; InstructionError
        before the first `set_instruction`; EngineError if the engine computes an action that is not finite. After an
        error the policy serves the next good call.
        """
        images, latents, state = check_observation(observation, self._shape)
        actions = np.empty(self._actions_shape, dtype=np.float32)
        seconds = np.empty(len(_engine.STAGES) + 1, dtype=np.float64)
        infer = self._engine.infer_by_stage if by_stage else self._engine.infer
        infer(images, latents, state, actions, seconds)
        timings = {stage: float(value) for stage, value in zip(_engine.STAGES, seconds[1:], strict=True) if value >= 0}
        timings["total"] = float(seconds[0])
        return ActionChunk(actions=actions, timings=timings, replan_steps=self._replan_steps)

    def tune(
        self, observation: Mapping[str, Any], repeats: int = 20, on_progress: Callable[[int, int], None] | None = None
    ) -> Tuning:
        """Time every tactic of the engine's launch plan on this policy's GPU; `write_tuning` keeps what it returns.

        repeats: chunks timed with each tactic. on_progress(done, total) may raise to end it. This policy goes on with
        the tactics it has. Raises DeviceError on a CPU, for an error of the driver, and when the fastest tactics
        compute other actions than the default ones; otherwise as `infer`.
        """
        if isinstance(repeats, bool) or not isinstance(repeats, int) or not 1 <= repeats <= _MAX_REPEATS:
            raise DeviceError(f"repeats is {repeats!r}; expected a whole number from 1 to {_MAX_REPEATS}")
        images, latents, state = check_observation(observation, self._shape)
        report = on_progress or (lambda done, total: None)
        found = self._engine.tune(images, latents, state, repeats, report)
        return Tuning(**{**found, "tasks": tuple(TaskTiming(**task) for task in found["tasks"])})

    def reset(self) -> None:
        """Marks the start of an episode. A policy keeps nothing from one chunk to the next, so nothing is to be done;
        the instruction in force stays. (`ChunkExecutor.reset` forgets the rest of a chunk.)"""
