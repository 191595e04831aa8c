# SPDX-License-Identifier: Apache-2.0
"""A program's translation to ONNX in progress: which values exist in which layouts.

A value may lie in several layouts at once: `rows` [R, C] (its matrix view), `map` [1, C, h, w] (what convolutions take)
and `heads` [1, heads, S, d] (what attention takes). A lowering requests a layout; conversions are made once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lightwam.engine.costs import text_keys
from lightwam.engine.graph import Graph, Op, Program, TensorType
from lightwam.onnx.model import ModelBuilder
from lightwam.onnx.rope import half_split_values


@dataclass
class Lowering:
    """The state of one program's translation. `text_rows`: rows of the instruction, None where any number may come."""

    graph: Graph
    program: Program
    model: ModelBuilder
    text_rows: int | None
    layouts: dict[str, dict[str, str]] = field(default_factory=dict)
    half_split: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.half_split = half_split_values(self.program)

    def keys(self) -> int:
        """Text keys of every cross-attention: one row stands for the padded ones."""
        length = int(self.graph.policy["context_rows"])
        return length if self.text_rows is None else text_keys(self.text_rows, length)

    def type(self, value: str) -> TensorType:
        """The value's type, an instruction's rows cut to those that are there."""
        declared = self.program.values[value].type
        if self.program.values[value].storage == "instruction" and value != "key_count":
            return TensorType("f32", (self.keys(), *declared.shape[1:]))
        return declared

    def put(self, value: str, layout: str, name: str) -> None:
        self.layouts.setdefault(value, {})[layout] = name

    def layout_of(self, value: str) -> str:
        """The layout in which the value was made."""
        return next(iter(self.layouts[value]))

    def rows(self, value: str) -> str:
        """The value as [R, C]."""
        known = self.layouts[value]
        if "rows" not in known:
            source, name = known["map"], f"{value}:rows"
            last = self.model.node("Transpose", [source], f"{name}.nhwc", perm=[0, 2, 3, 1])
            known["rows"] = self.model.reshape(last, (-1, self.type(value).shape[-1]), name)
        return known["rows"]

    def map(self, value: str) -> str:
        """The value [h, w, C] as [1, C, h, w]."""
        known = self.layouts[value]
        if "map" not in known:
            nhwc = self.model.reshape(known["rows"], (1, *self.type(value).shape), f"{value}:nhwc")
            known["map"] = self.model.node("Transpose", [nhwc], f"{value}:map", perm=[0, 3, 1, 2])
        return known["map"]

    def heads(self, value: str, heads: int) -> str:
        """The value [S, heads*d] as [1, heads, S, d]."""
        known = self.layouts[value]
        if "heads" not in known:
            known["heads"] = self.split_heads(self.rows(value), heads, self.type(value).shape[-1], f"{value}:heads")
        return known["heads"]

    def split_heads(self, x: str, heads: int, width: int, output: str) -> str:
        """[S, heads*d] -> [1, heads, S, d]."""
        split = self.model.reshape(x, (1, -1, heads, width // heads), f"{output}.split")
        return self.model.node("Transpose", [split], output, perm=[0, 2, 1, 3])

    def constant(self, op: Op, role: str) -> str:
        return self.model.constant(self.graph.constants[op.constants[role]])

    def optional(self, op: Op, role: str) -> list[str]:
        """The constant of that role as an argument, or none."""
        return [self.constant(op, role)] if role in op.constants else []

    def add_residual(self, op: Op, y: str, output: str) -> str:
        """y + residual, in rows; y itself where there is none."""
        if "residual" not in op.inputs:
            return y
        return self.model.node("Add", [y, self.rows(op.inputs["residual"])], output)

    def activate(self, op: Op, y: str) -> str:
        """The op's activation of y."""
        kind = op.attrs["activation"]
        if kind == "silu":
            gate = self.model.node("Sigmoid", [y], f"{op.name}:sigmoid")
            return self.model.node("Mul", [y, gate], f"{op.name}:silu")
        if kind == "none":
            return y
        form = "tanh" if kind == "gelu_tanh" else "none"
        return self.model.node("Gelu", [y], f"{op.name}:gelu", approximate=form)
