# SPDX-License-Identifier: Apache-2.0
"""Ops on single numbers, and those that only join or rename them. Symbols as in `lightwam.engine.ops`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightwam.engine.dtypes import Shape
from lightwam.engine.graph import TensorType
from lightwam.engine.lazy_torch import torch
from lightwam.engine.ops.spec import X_IN_PLACE, Call, Operands, OpSpec, Role, X, same_as_x

if TYPE_CHECKING:
    from torch import Tensor


def _add_subtract_shape(o: Operands) -> dict[str, Shape]:
    o.require(
        ("a" in o.inputs) != ("a" in o.constants) and ("b" in o.inputs) != ("b" in o.constants), "one a and one b"
    )
    o.require(all(tensor.dtype == "f32" for tensor in o.constants.values()), "constants in f32")
    a, b = o.operand("a"), o.operand("b")
    o.require(b.matrix in (a.matrix, (1, a.matrix[1])), "b of a's shape or [1, D]")
    return {"y": a.shape}


def _addends(c: Call) -> tuple[Tensor, Tensor]:
    """a, and b in a's shape or a row of it."""
    a, b = c["a"], c["b"]
    return a, b.reshape(a.shape if b.numel() == a.numel() else b.shape[-1:])


def _add(c: Call) -> Tensor:
    a, b = _addends(c)
    return a + b


def _subtract(c: Call) -> Tensor:
    a, b = _addends(c)
    return a - b


def _concat_shape(o: Operands) -> dict[str, Shape]:
    parts = [o.inputs[f"x.{index}"].matrix for index in range(len(o.inputs))]
    o.require(len({rows for rows, _ in parts}) == 1, "parts of one number of rows")
    return {"y": (parts[0][0], sum(columns for _, columns in parts))}


def _concat(c: Call) -> Tensor:
    return torch.cat([c.matrix(f"x.{index}") for index in range(len(c.tensors))], -1)


def _scale_shift_clamp_shape(o: Operands) -> dict[str, Shape]:
    vector = TensorType("f32", (o.inputs["x"].matrix[1],))
    o.require(o.constants["scale"] == vector == o.constants["shift"], f"scale and shift {vector}")
    low, high = o.attrs["minimum"], o.attrs["maximum"]
    o.require(low is None or high is None or o.number("minimum") <= o.number("maximum"), "minimum <= maximum")
    return same_as_x(o)


def _scale_shift_clamp(c: Call) -> Tensor:
    y = c["x"] * c["scale"] + c["shift"]
    y = y.to(torch.float32).to(y.dtype)  # the op's own precision: a normaliser's large scales make it visible
    for name, limit in (("minimum", torch.maximum), ("maximum", torch.minimum)):
        if c.attrs[name] is not None:
            y = limit(y, y.new_tensor(c.number(name)))
    return y


def _gripper_rule_shape(o: Operands) -> dict[str, Shape]:
    o.require(o.count("column") < o.inputs["x"].matrix[1], "a column of x")
    return same_as_x(o)


def _gripper_rule(c: Call) -> Tensor:
    y = c["x"].clone()
    column = c.count("column")
    y[..., column] = torch.sign(-(2 * y[..., column] - 1))
    return y


def _cast_shape(o: Operands) -> dict[str, Shape]:
    y = o.declared.get("y")
    o.require(y is None or y.dtype != o.inputs["x"].dtype, "an output of another format")
    return same_as_x(o)


def _reshape_shape(o: Operands) -> dict[str, Shape]:
    o.require("y" in o.declared, "an output y")
    x, y = o.inputs["x"], o.declared["y"]
    o.require(x.dtype == y.dtype and math.prod(x.shape) == math.prod(y.shape), "an output of x's format and size")
    return {"y": y.shape}


_ADDENDS = (Role("a", optional=True, in_place=True), Role("b", optional=True))
_CONSTANT_ADDENDS = (Role("a", optional=True), Role("b", optional=True))

SPECS = (
    OpSpec("add", _add_subtract_shape, _add, _ADDENDS, _CONSTANT_ADDENDS),
    OpSpec("subtract", _add_subtract_shape, _subtract, _ADDENDS, _CONSTANT_ADDENDS),
    OpSpec("concat", _concat_shape, _concat, (Role("x", variadic=True),)),
    OpSpec("scale_shift_clamp", _scale_shift_clamp_shape, _scale_shift_clamp, (X_IN_PLACE,),
           (Role("scale"), Role("shift")), {"minimum": "bound", "maximum": "bound"}),
    OpSpec("gripper_rule", _gripper_rule_shape, _gripper_rule, (X_IN_PLACE,), attrs={"column": "column"}),
    OpSpec("cast", _cast_shape, lambda c: c["x"], (X,)),
    OpSpec("reshape", _reshape_shape, lambda c: c["x"].reshape(c.declared["y"].shape), (X,), view=True),
)  # fmt: skip
