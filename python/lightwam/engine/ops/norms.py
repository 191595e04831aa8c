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
    return same_as_x(o)


def _squarable(x: Tensor) -> Tensor:
    """x, in float64 where squares of its numbers overflow float32."""
    return x.to(torch.float64) if x.dtype == torch.float32 and bool((x.abs() > 1e18).any()) else x


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """Layer norm of the rows of x, without weight and bias."""
    return F.layer_norm(_squarable(x), x.shape[-1:], eps=eps).to(x.dtype)


def _layer_norm(c: Call) -> Tensor:
    x, weight, bias = c["x"], c.get("weight"), c.get("bias")
    if _squarable(x) is x:
        return F.layer_norm(x, x.shape[-1:], weight, bias, c.number("eps"))
    y = layer_norm(x, c.number("eps"))
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _scaled_rms_norm(c: Call) -> Tensor:
    x, wide = c["x"], _squarable(c["x"])
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + c.number("eps"))).to(x.dtype) * c["weight"]


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
    even, odd = x.reshape(len(c.matrix("x")), c.count("heads"), -1, 2).unbind(-1)
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
