# SPDX-License-Identifier: Apache-2.0
"""Norms of rows, and the rotation behind one. Symbols as in `lightwam.engine.ops`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightwam.engine.dtypes import Shape
from lightwam.engine.graph import TensorType
from lightwam.engine.lazy_torch import F, torch
from lightwam.engine.ops.spec import BIAS, WEIGHT, X_IN_PLACE, Call, Operands, OpSpec, Role, same_as_x

if TYPE_CHECKING:
    from torch import Tensor


def _norm_shape(o: Operands) -> dict[str, Shape]:
    columns = o.inputs["x"].matrix[1]
    for role, tensor in o.constants.items():
        o.require(tensor == TensorType("f32", (columns,)), f"{role} f32[{columns}]")
    o.require(o.op == "rms_norm" or len(o.constants) in (0, 2), "weight and bias together, or neither")
    return same_as_x(o)


def _layer_norm(c: Call) -> Tensor:
    return F.layer_norm(c["x"], c["x"].shape[-1:], c.get("weight"), c.get("bias"), c.number("eps"))


def _scaled_rms_norm(c: Call) -> Tensor:
    x = c["x"]
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + c.number("eps")) * c["weight"]


def _rms_norm_rope_shape(o: Operands) -> dict[str, Shape]:
    tokens, columns = o.inputs["x"].matrix
    heads = o.count("heads")
    o.require(columns % (2 * heads) == 0, "heads of an even width")
    table = TensorType("f32", (tokens, columns // heads // 2))
    o.require(o.constants["weight"] == TensorType("f32", (columns,)), f"weight f32[{columns}]")
    o.require(o.constants["cos"] == table == o.constants["sin"], f"cos and sin {table}")
    return same_as_x(o)


def _rms_norm_rope(c: Call) -> Tensor:
    x = _scaled_rms_norm(c)
    even, odd = x.reshape(x.shape[0], c.count("heads"), -1, 2).unbind(-1)
    cos, sin = c["cos"].unsqueeze(1), c["sin"].unsqueeze(1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(1)


SPECS = (
    OpSpec("layer_norm", _norm_shape, _layer_norm, (X_IN_PLACE,), (Role("weight", optional=True), BIAS),
           {"eps": "positive"}),
    OpSpec("rms_norm", _norm_shape, lambda c: c.activate(_scaled_rms_norm(c)), (X_IN_PLACE,), (WEIGHT,),
           {"eps": "positive", "activation": "activation"}),
    OpSpec("rms_norm_rope", _rms_norm_rope_shape, _rms_norm_rope, (X_IN_PLACE,), (WEIGHT, Role("cos"), Role("sin")),
           {"eps": "positive", "heads": "count"}),
)  # fmt: skip
