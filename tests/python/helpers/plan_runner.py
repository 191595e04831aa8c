# SPDX-License-Identifier: Apache-2.0
"""Runs a launch plan without a GPU: launch by launch on NumPy memory, as an executor would on the device's.

Arenas are filled with NaN bytes before a program starts, so that what is read without having been written shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Literal

import numpy as np

from helpers.fast_interpreter import speed_up
from lightwam.engine.dtypes import Array
from lightwam.engine.graph import Graph
from lightwam.errors import ExportError
from lightwam.gpu.plan import Buffer, Launch, LaunchPlan, ProgramPlan
from lightwam.gpu.side import parts
from lightwam.kernels import formats
from lightwam.kernels.interpreter import interpret
from lightwam.kernels.task import Argument, kernel_module

#: "interpreter": the kernels' Triton source, on addresses. "reference": their float64 references, on arrays.
Way = Literal["interpreter", "reference"]
#: How launches beside each other are ordered: the side stream first, last, or in turns with what it runs beside.
Order = Literal["side_first", "side_last", "in_turns"]
POISON = 0xFF
_ALIGNMENT = 256


class PlanRunner:
    """A plan with its memory. `on_launch` is called before every launch with the program's name and the launch."""

    def __init__(
        self, graph: Graph, plan: LaunchPlan, way: Way = "interpreter",
        on_launch: Callable[[str, Launch], None] | None = None, order: Order = "side_first",
    ) -> None:  # fmt: skip
        if way == "interpreter":
            speed_up()
        self.graph, self.plan, self.way, self.on_launch, self.order = graph, plan, way, on_launch, order
        self._weights = _memory(plan.weights_bytes)
        for name, offset in plan.weights.items():
            constant = graph.constants.get(name) or plan.derived[name]
            stored = np.ascontiguousarray(constant.array()).reshape(-1).view(np.uint8)
            self._weights[offset : offset + len(stored)] = stored
        self._instruction = _memory(graph.instruction_bytes)
        self._arenas = {name: _memory(program.arena_bytes) for name, program in plan.programs.items()}
        self._bound: dict[str, Array] = {}
        self._has_instruction = False

    def set_instruction(self, context: Array) -> None:
        """Run `set_instruction` on the rows of an instruction, float [n, text width], n at most the engine's L."""
        rows, (length, width) = len(context), (self.graph.policy["context_rows"], self.graph.policy["text_width"])
        if not 0 < rows <= length or context.shape[1:] != (width,):
            raise ExportError(f"context has shape {list(context.shape)}: give [n, {width}] with n in 1..{length}")
        padded = np.zeros((length, width), np.float32)
        padded[:rows] = context
        self._run("set_instruction", {"context": padded, "text_rows": np.array([rows], np.int32)})
        self._has_instruction = True

    def act(self, state: Array, latents: Array | None = None, images: Mapping[str, Array] | None = None) -> Array:
        """One chunk f32 [H, A], from state [P] and latents [C, h, w] or uint8 images {camera: [h, w, 3]}."""
        if not self._has_instruction:
            raise ExportError("act before set_instruction: set an instruction first")
        bound: dict[str, Array] = {"state": np.asarray(state, np.float32).reshape(1, -1)}
        if latents is not None:
            bound["latents"] = np.asarray(latents, np.float32)
        if images is not None:
            cameras = [camera["name"] for camera in self.graph.policy["cameras"]]
            bound |= {f"frames.{name}": np.asarray(images[name], np.uint8) for name in cameras}
            bound["frame_sizes"] = np.array([images[name].shape[:2] for name in cameras], np.int32)
        self._run("act", bound)
        value = self.graph.programs["act"].values[self.graph.programs["act"].outputs["actions"]]
        actions: Array = self._bound[value.name].view(np.float32).reshape(value.type.shape).copy()
        return actions

    def _run(self, name: str, inputs: Mapping[str, Array]) -> None:
        program = self.plan.programs[name]
        self._arenas[name][:] = POISON
        if name == "set_instruction":
            self._instruction[:] = POISON
        for buffer in program.buffers:
            if buffer.space == "output":
                self._bound[buffer.name] = _memory(buffer.num_bytes or 0)
            elif buffer.space == "input":
                self._bound[buffer.name] = _bind(buffer, inputs)
        for launch in ordered_launches(program, self.order):
            if self.on_launch is not None:
                self.on_launch(name, launch)
            self._launch(name, program, launch)

    def _launch(self, name: str, program: ProgramPlan, launch: Launch) -> None:
        task = self.plan.tasks[launch.task].task
        places = [self._bytes(name, program, argument, launch, index) for index, argument in enumerate(task.arguments)]
        module = kernel_module(task)
        if self.way == "interpreter":
            unknown = {a.name: len(b) for a, b in zip(task.arguments, places, strict=True) if a.num_bytes is None}
            addresses = [int(place.ctypes.data) for place in places]
            interpret.run(task, module.tactics(task, "interpreter")[0], addresses, unknown)
            return
        read = {
            argument.name: _numbers(argument, place)
            for argument, place in zip(task.arguments, places, strict=True)
            if argument.mode == "r"
        }
        made = module.reference(task, read)
        for argument, place in zip(task.arguments, places, strict=True):
            if argument.mode == "w":
                numbers = formats.encode(np.asarray(made[argument.name]), argument.dtype)
                place[:] = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8)

    def _bytes(self, name: str, program: ProgramPlan, argument: Argument, launch: Launch, index: int) -> Array:
        """The memory that an argument of a launch may touch."""
        address = launch.arguments[index]
        if address.buffer is None:
            block, start = self._weights, address.offset
        else:
            buffer = program.buffers[address.buffer]
            blocks = {"arena": self._arenas[name], "instruction": self._instruction}
            block = blocks[buffer.space] if buffer.space in blocks else self._bound[buffer.name]
            start = buffer.offset + address.offset
        size = len(block) if argument.num_bytes is None else argument.num_bytes
        return block[start : start + size]


def ordered_launches(program: ProgramPlan, order: Order) -> Sequence[Launch]:
    """The launches of a program, those of its side stream where `order` says."""
    side, beside, rest = parts(program.side_stream, program.launches)
    if order == "side_first":
        return program.launches
    if order == "side_last":
        return (*beside, *side, *rest)
    turns = chain.from_iterable(zip_longest(beside, side))
    return (*(launch for launch in turns if launch is not None), *rest)


def _memory(size: int) -> Array:
    """Poisoned bytes at an address as aligned as the device's."""
    whole = np.full(size + _ALIGNMENT, POISON, np.uint8)
    start = -int(whole.ctypes.data) % _ALIGNMENT
    return whole[start : start + size]


def _bind(buffer: Buffer, inputs: Mapping[str, Array]) -> Array:
    given = inputs.get(buffer.name)
    if given is None or (buffer.num_bytes is not None and given.nbytes != buffer.num_bytes):
        found = "nothing" if given is None else f"{given.nbytes} bytes"
        raise ExportError(
            f"input {buffer.name}: got {found}, expected {buffer.num_bytes} bytes: give it to the program"
        )
    memory = _memory(given.nbytes)
    memory[:] = np.ascontiguousarray(given).reshape(-1).view(np.uint8)
    return memory


def _numbers(argument: Argument, place: Array) -> Array:
    """What an argument holds, as the references take it: floats as float64, integers as int64."""
    stored = place.view(formats.STORAGE[argument.dtype])
    return formats.decode(stored if argument.shape is None else stored.reshape(argument.shape), argument.dtype)
