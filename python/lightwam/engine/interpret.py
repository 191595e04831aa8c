# SPDX-License-Identifier: Apache-2.0
"""Runs a graph by the references of the op table, in PyTorch on the CPU: every backend is measured against it.

It computes in float64 (or float32) and rounds a value to bfloat16 or float16 where the graph declares it so, unless
`rounds` is off. Nothing else is rounded but `scale_shift_clamp` and the scales of `quantize_rows`, to float32;
integers are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lightwam.arithmetic import default_arithmetic
from lightwam.engine.dtypes import Array, decode
from lightwam.engine.graph import Graph, Op, matrix_view
from lightwam.engine.images import compose_canvas
from lightwam.engine.inputs import Observation
from lightwam.engine.ops import OPS, Call
from lightwam.errors import ExportError, InstructionError, ObservationError
from lightwam.words import clean_instruction, word_buckets

_HALVES = {"bf16": torch.bfloat16, "f16": torch.float16}
_SMALL_BYTES = 1 << 28


def instruction_context(graph: Graph, text: str) -> Array:
    """Context rows [n, text width] of an instruction: a known one, or through the engine's text encoder.

    Raises `InstructionError` on one that is unknown, has no word, or has more words than the engine has rows.
    """
    policy = graph.policy
    for known in policy["instructions"]:
        if clean_instruction(known["text"]) == clean_instruction(text):
            return _table(graph, known["context"])
    encoder = policy["text_encoder"]
    if encoder is None:
        raise InstructionError(
            f"instruction {text!r} is unknown: use one of {[k['text'] for k in policy['instructions']]}"
        )
    embedding, position = _table(graph, encoder["embedding"]), _table(graph, encoder["position"])
    if not word_buckets(text, len(embedding)):
        raise InstructionError(f"instruction {text!r} has 0 words: use 1..{len(position)}")
    buckets = word_buckets(policy["prompt_template"].replace("{task}", text), len(embedding))
    if not 0 < len(buckets) <= len(position):
        raise InstructionError(f"instruction {text!r} has {len(buckets)} words: use 1..{len(position)}")
    return np.asarray(embedding[buckets] + position[: len(buckets)])


def _table(graph: Graph, name: str) -> Array:
    constant = graph.constants[name]
    return decode(constant.array(), constant.type.dtype)


@dataclass
class Interpreter:
    """Runs a graph's programs. `trace` keeps values of the last `act`: all with `keep_trace`, else those of `kept`.

    `on_op` is called before each op with the program's name, the op and its operands. Without `rounds` values keep all
    digits that they were computed with, whatever the graph declares: a backend's rounding is measured from that.
    Constants stay in memory, widened, where the graph's are small (256 MB as stored); others are made for every op.
    """

    graph: Graph
    dtype: torch.dtype = torch.float64
    keep_trace: bool = False
    kept: frozenset[str] = frozenset()
    on_op: Callable[[str, Op, Call], None] | None = None
    rounds: bool = True
    trace: dict[str, Tensor] = field(default_factory=dict)
    _instruction: dict[str, Tensor] | None = None
    _text: str | None = None
    _constants: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._keeps_constants = self.graph.constant_bytes() <= _SMALL_BYTES

    @torch.no_grad()
    @default_arithmetic
    def set_instruction(self, context: Array) -> None:
        """Run `set_instruction` on the rows of an instruction, float [n, text width], n at most the engine's L."""
        self._text = None
        policy = self.graph.policy
        rows, width, length = context.shape[0], policy["text_width"], policy["context_rows"]
        if context.ndim != 2 or context.shape[1] != width or not 0 < rows <= length:
            raise ExportError(f"context has shape {list(context.shape)}: give [n, {width}] with n in 1..{length}")
        padded = torch.zeros(length, width, dtype=self.dtype)
        padded[:rows] = torch.as_tensor(np.array(context, np.float32))
        values = self._run("set_instruction", {"context": padded, "text_rows": torch.tensor([rows])}, None)
        known = self.graph.programs["set_instruction"].values
        kept = {name for name, value in known.items() if value.storage == "instruction"}
        self._instruction = {name: x for name, x in values.items() if name in kept}

    @default_arithmetic
    def infer(self, observation: Observation) -> Array:
        """`act` under the observation's instruction, which is set when it changes. Raises `InstructionError`."""
        if self._text != observation.instruction:
            self.set_instruction(instruction_context(self.graph, observation.instruction))
            self._text = observation.instruction
        return self.act(observation.state, observation.latents, observation.images)

    @torch.no_grad()
    @default_arithmetic
    def act(self, state: Array, latents: Array | None = None, images: Mapping[str, Array] | None = None) -> Array:
        """One chunk [H, A] in robot units, from state [P] and latents [C, h, w] or uint8 RGB images {camera: HWC}."""
        for name, array in (("state", state), ("latents", latents)):
            if isinstance(array, np.ma.MaskedArray):
                raise ObservationError(f"{name} is a masked array: give a plain one")
        if self._instruction is None:
            raise ExportError("act before set_instruction: set an instruction first")
        inputs = {"state": torch.as_tensor(np.asarray(state), dtype=self.dtype).reshape(1, -1), **self._instruction}
        if latents is not None:
            inputs["latents"] = torch.as_tensor(np.asarray(latents), dtype=self.dtype)
        canvas = None
        if images is not None:
            canvas = torch.as_tensor(compose_canvas(images, self.graph.policy), dtype=self.dtype)
        values = self._run("act", inputs, canvas)
        self.trace = {name: x for name, x in values.items() if self.keep_trace or name in self.kept}
        actions = values[self.graph.programs["act"].outputs["actions"]]
        return np.asarray(actions)

    def _run(self, program_name: str, inputs: dict[str, Tensor], canvas: Tensor | None) -> dict[str, Tensor]:
        program = self.graph.programs[program_name]
        values = dict(inputs)
        last_reads = program.last_reads()
        for index, op in enumerate(program.ops):
            for role, y in self._apply(program_name, op, values, canvas).items():
                value = program.values[op.outputs[role]]
                if matrix_view(tuple(y.shape)) != value.type.matrix:
                    raise ExportError(f"op {op.name}: made {list(y.shape)} for {role}, declared {value.type}")
                values[value.name] = self._round(y.reshape(value.type.shape), value.type.dtype)
            if not self.keep_trace:
                for name in op.inputs.values():
                    last_read = last_reads[name] == index and program.values[name].storage == "arena"
                    if last_read and name not in self.kept:
                        values.pop(name, None)
        return values

    def _apply(
        self, program_name: str, op: Op, values: Mapping[str, Tensor], canvas: Tensor | None
    ) -> dict[str, Tensor]:
        program = self.graph.programs[program_name]
        tensors = {role: values[name] for role, name in op.inputs.items()}
        tensors.update({role: self._constant(name) for role, name in op.constants.items()})
        declared = {role: program.values[name].type for role, name in op.outputs.items()}
        call = Call(tensors, op.attrs, declared, canvas)
        if self.on_op is not None:
            self.on_op(program_name, op, call)
        made = OPS[op.op].reference(call)
        return made if isinstance(made, dict) else {"y": made}

    def _round(self, y: Tensor, dtype: str) -> Tensor:
        if dtype in ("i8", "f8", "i32"):
            return y
        half = _HALVES.get(dtype) if self.rounds else None
        return y.to(self.dtype) if half is None else y.to(half).to(self.dtype)

    def _constant(self, name: str) -> Tensor:
        if name not in self._constants:
            constant = self.graph.constants[name]
            tensor = torch.as_tensor(decode(np.array(constant.array()), constant.type.dtype))
            if constant.type.dtype != "i8":
                tensor = tensor.to(self.dtype)
            if not self._keeps_constants:
                return tensor
            self._constants[name] = tensor
        return self._constants[name]
