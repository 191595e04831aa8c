# SPDX-License-Identifier: Apache-2.0
"""The launch plan of docs/reference/launch-plan.md, section 2: tasks, buffers, launches, what they touch; its JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightwam.engine.graph import Constant, Stage
from lightwam.kernels.task import Argument, Task

PLAN_VERSION = 1
ARENA_ALIGNMENT = 256
WEIGHT_ALIGNMENT = 16

Space = Literal["arena", "instruction", "input", "output"]
SPACES: tuple[Space, ...] = ("arena", "instruction", "input", "output")


@dataclass(frozen=True)
class Buffer:
    """Bytes [offset, offset + num_bytes) of a space; `num_bytes` is None for camera frames only."""

    name: str
    space: Space
    offset: int
    num_bytes: int | None


@dataclass(frozen=True)
class Address:
    """An address in a program's buffer, by its index, or in the block of weights (no buffer)."""

    buffer: int | None
    offset: int

    def to_json(self) -> list[Any]:
        return ["w", self.offset] if self.buffer is None else ["b", self.buffer, self.offset]


@dataclass(frozen=True)
class Launch:
    """One run of a task, one address for each of its arguments."""

    name: str
    stage: Stage
    task: int
    arguments: tuple[Address, ...]


@dataclass(frozen=True)
class SideStream:
    """The first `launches` of a program run beside those after them, up to `join`, which waits for both (side.py).

    Both are indices, `launches` < `join`. Each keeps its own order; they share no byte that one of them writes.
    """

    launches: int
    join: int


@dataclass(frozen=True)
class ProgramPlan:
    """The launches of a program in order, and the buffers that they read and write."""

    arena_bytes: int
    buffers: tuple[Buffer, ...]
    launches: tuple[Launch, ...]
    side_stream: SideStream | None = None


@dataclass(frozen=True)
class Code:
    """A tactic compiled for a target: where in the target's machine code its cubin module lies; how to launch it."""

    entry: str
    offset: int
    num_bytes: int
    grid: tuple[int, int, int]
    threads: int
    shared: int
    registers: int
    note: str


@dataclass(frozen=True)
class PlannedTask:
    """A task of the plan. `label` names it for people; `tactics`: target -> its compiled tactics, the default first."""

    label: str
    task: Task
    tactics: Mapping[str, tuple[Code, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class LaunchPlan:
    """Everything that a GPU runs. `derived`: constants that the file must hold beside the graph's own.

    `weights`: tensor -> its offset in the block of weights; `machine_code`: target -> the tensor of its cubin modules.
    """

    weights_bytes: int
    weights: Mapping[str, int]
    tasks: tuple[PlannedTask, ...]
    programs: Mapping[str, ProgramPlan]
    derived: Mapping[str, Constant] = field(default_factory=dict)
    machine_code: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Touch:
    """Bytes [start, end) of a block of memory that a launch reads or writes as one argument."""

    argument: str
    block: str
    start: int
    end: int
    written: bool

    def conflicts(self, other: Touch) -> bool:
        """Whether the two must keep their order: they share bytes, and one writes."""
        shared = self.block == other.block and self.start < other.end and other.start < self.end
        return shared and (self.written or other.written)


@dataclass(frozen=True)
class Access:
    """An argument of a launch: bytes [start, end) of its buffer, or of the block of weights (no buffer)."""

    argument: Argument
    buffer: Buffer | None
    start: int
    end: int

    @property
    def writes(self) -> bool:
        return self.argument.mode == "w"

    @property
    def block(self) -> str:
        """What it lies in, for messages."""
        return "the weights" if self.buffer is None else self.buffer.name

    def touch(self) -> Touch:
        """The bytes in their block, where buffers may share a place; inputs and outputs are blocks of their own."""
        buffer, block = self.buffer, "weights"
        if buffer is not None:
            block = buffer.space if buffer.space in ("arena", "instruction") else buffer.name
        base = 0 if buffer is None else buffer.offset
        return Touch(self.argument.name, block, base + self.start, base + self.end, self.writes)


def accesses(launch: Launch, plan: LaunchPlan, program: ProgramPlan) -> Iterator[Access]:
    """What a launch touches, argument by argument; camera frames from their start to their unknown end as 0 bytes."""
    for argument, address in zip(plan.tasks[launch.task].task.arguments, launch.arguments, strict=True):
        buffer = None if address.buffer is None else program.buffers[address.buffer]
        yield Access(argument, buffer, address.offset, address.offset + (argument.num_bytes or 0))


def plan_to_json(plan: LaunchPlan) -> dict[str, Any]:
    """The value of the key `gpu` in an engine's JSON document."""
    return {
        "plan_version": PLAN_VERSION,
        "weights_bytes": plan.weights_bytes,
        "weights": [{"tensor": name, "offset": offset} for name, offset in plan.weights.items()],
        "images": dict(plan.machine_code),
        "tasks": [_task_to_json(planned) for planned in plan.tasks],
        "programs": {name: _program_to_json(program) for name, program in plan.programs.items()},
    }


def _task_to_json(planned: PlannedTask) -> dict[str, Any]:
    task = planned.task
    return {
        "kernel": task.kernel,
        "label": planned.label,
        "arguments": [{"name": a.name, "mode": a.mode, "bytes": a.num_bytes} for a in task.arguments],
        "flops": task.flops,
        "product_type": task.product_type,
        **({"linear": linear} if (linear := linear_of(task)) is not None else {}),
        "tactics": {target: [_fields(code) for code in codes] for target, codes in planned.tactics.items()},
    }


def linear_of(task: Task) -> dict[str, Any] | None:
    """The key `linear` of a task: y = act(x Wᵀ + bias) + residual that one call of a library computes; else None.

    That is a matmul of many rows which reads x as it is, in the weight's format, writes no row statistics, and has no
    residual behind an activation (a library activates last).
    """
    constants = task.constants
    if task.kernel != "matmul" or (constants["X_MODE"], constants["STATISTICS"]) != ("plain", "none"):
        return None
    formats = {argument.name: argument.dtype for argument in task.arguments}
    x, y, activation = formats["x"], formats["y"], constants["ACTIVATION"]
    fits = constants["GROUPS"] == 1 and formats["weight"] == x and x in ("f32", "f16", "bf16") and y in (x, "f32")
    if "residual" in formats:
        fits = fits and formats["residual"] == y and activation == "none"
    if not fits or activation not in ("none", "gelu_tanh"):
        return None
    sizes = {"rows": constants["ROWS"], "outputs": constants["N"], "inputs": constants["K"]}
    return {**sizes, "x": x, "y": y, "activation": activation}


def _program_to_json(program: ProgramPlan) -> dict[str, Any]:
    side = {} if program.side_stream is None else {"side": _fields(program.side_stream)}
    return side | {
        "arena_bytes": program.arena_bytes,
        "buffers": [_fields(buffer) for buffer in program.buffers],
        "launches": [
            _fields(launch)
            | {
                "arguments": [
                    ["w", a.offset] if a.buffer is None else ["b", a.buffer, a.offset] for a in launch.arguments
                ]
            }
            for launch in program.launches
        ],
    }


def _fields(part: Buffer | Code | Launch | SideStream) -> dict[str, Any]:
    """The fields of a part of the plan in their order, as the file names them."""
    return {"bytes" if name == "num_bytes" else name: value for name, value in vars(part).items()}
