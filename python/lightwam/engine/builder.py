# SPDX-License-Identifier: Apache-2.0
"""Assembles a program op by op; the op table infers every shape, and ops that nothing reads are dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lightwam.engine.dtypes import DType, Shape
from lightwam.engine.graph import Attr, Constant, Op, Program, Stage, Storage, TensorType, Value
from lightwam.engine.ops import OPS, Operands
from lightwam.errors import ExportError


class ProgramBuilder:
    """Appends ops to one program. `stage` is the stage of the ops that follow; constants are collected by name."""

    def __init__(self, constants: dict[str, Constant], stage: Stage) -> None:
        self.stage: Stage = stage
        self._constants = constants
        self._values: dict[str, Value] = {}
        self._ops: list[Op] = []

    def bind(self, name: str, dtype: DType, shape: Shape, storage: Storage = "input") -> Value:
        """Declare a value that the program reads but does not write: an input, or the instruction's cache."""
        return self._add(Value(name, TensorType(dtype, shape), storage))

    def emit(
        self,
        op: str,
        name: str,
        inputs: Mapping[str, Value] | None = None,
        constants: Mapping[str, Constant] | None = None,
        dtype: DType = "f32",
        shape: Shape | None = None,
        storage: Storage = "arena",
        **attrs: Attr,
    ) -> Value:
        """Append an op with the single output `y`, called `name` like the op. `shape`: where the op leaves it open."""
        declared = {} if shape is None else {"y": TensorType(dtype, shape)}
        shapes = self._append(op, name, inputs or {}, constants or {}, attrs, declared, {"y": name})
        return self._add(Value(name, TensorType(dtype, shapes["y"]), storage))

    def emit_many(
        self,
        op: str,
        name: str,
        inputs: Mapping[str, Value],
        outputs: Mapping[str, TensorType],
        storage: Storage,
        prefix: str = "",
    ) -> dict[str, Value]:
        """Append an op with several outputs; each is called by its role, behind `prefix`."""
        names = {role: prefix + role for role in outputs}
        self._append(op, name, inputs, {}, {}, outputs, names)
        return {role: self._add(Value(names[role], tensor, storage)) for role, tensor in outputs.items()}

    def _append(
        self,
        op: str,
        name: str,
        inputs: Mapping[str, Value],
        constants: Mapping[str, Constant],
        attrs: Mapping[str, Attr],
        declared: Mapping[str, TensorType],
        outputs: Mapping[str, str],
    ) -> dict[str, Shape]:
        operands = Operands(
            op,
            {role: value.type for role, value in inputs.items()},
            {role: constant.type for role, constant in constants.items()},
            attrs,
            declared,
        )
        shapes = OPS[op].check(operands)
        for constant in constants.values():
            known = self._constants.setdefault(constant.name, constant)
            if known.type != constant.type:
                raise ExportError(
                    f"constant {constant.name}: declared as {known.type} and as {constant.type}: rename one"
                )
        self._ops.append(
            Op(
                op,
                name,
                self.stage,
                {role: value.name for role, value in inputs.items()},
                {role: constant.name for role, constant in constants.items()},
                outputs,
                dict(attrs),
            )
        )
        return shapes

    def _add(self, value: Value) -> Value:
        if value.name in self._values:
            raise ExportError(f"value {value.name} exists already: rename the op")
        self._values[value.name] = value
        return value

    def finish(self, outputs: Mapping[str, Value], also_needed: Iterable[str] = ()) -> Program:
        """The program without the ops that neither `outputs` nor the values named in `also_needed` depend on."""
        names = {role: value.name for role, value in outputs.items()}
        needed = {*names.values(), *also_needed}
        kept: list[Op] = []
        for op in reversed(self._ops):
            if needed.intersection(op.outputs.values()):
                kept.append(op)
                needed.update((*op.inputs.values(), *op.outputs.values()))
        values = {name: value for name, value in self._values.items() if name in needed}
        return Program(values, tuple(reversed(kept)), names)
