# SPDX-License-Identifier: Apache-2.0
"""Linears, and the rounding of rows to eight bits. Symbols as in `lightwam.engine.ops`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightwam.engine.dtypes import EIGHT_BITS, DType, Shape
from lightwam.engine.graph import TensorType
from lightwam.engine.lazy_torch import F, torch
from lightwam.engine.ops.spec import BIAS, MATMUL_TOLERANCE, RESIDUAL, WEIGHT, Call, Operands, OpSpec, Role, X
from lightwam.kernels.formats import E4M3_LARGEST

if TYPE_CHECKING:
    from torch import Tensor

#: Widest row of an eight-bit matmul: 255 * 127 * K fits a signed 32-bit sum.
MAX_QUANTISED_WIDTH = 66_311
SMALLEST_SCALE = 2.0**-126  # the smallest normal float32


def _linear_shape(o: Operands) -> dict[str, Shape]:
    x, weight = o.inputs["x"], o.constants["weight"].shape
    o.require(len(weight) == 2 and x.matrix[1] == weight[1], "x [..., K] and weight [N, K]")
    output = (*x.shape[:-1], weight[0])
    o.require_bias_and_residual(weight[0], output)
    _require_scales(o)
    return {"y": output}


def _require_scales(o: Operands) -> None:
    """The eight-bit forms have scales, of integers zeros too; the others have none."""
    rows, in_dim = o.inputs["x"].matrix
    quantised, integers = o.inputs["x"].dtype in EIGHT_BITS, o.inputs["x"].dtype == "i8"
    given = {**o.inputs, **o.constants}
    scales = {
        "x_scale": TensorType("f32", (rows,)),
        "x_zero": TensorType("i32", (rows,)),
        "weight_scale": TensorType("f32", o.constants["weight"].matrix[:1]),
    }
    for role, tensor in scales.items():
        needed = integers if role == "x_zero" else quantised
        which = "i8" if role == "x_zero" else "i8 or f8"
        o.require(given.get(role) == (tensor if needed else None), f"{role} {tensor} if x is {which}, else none")
    o.require(not integers or in_dim <= MAX_QUANTISED_WIDTH, f"at most {MAX_QUANTISED_WIDTH} columns of i8")


def _linear_flops(o: Operands) -> int:
    return 2 * o.inputs["x"].matrix[0] * math.prod(o.constants["weight"].shape)


def _linear(c: Call) -> Tensor:
    if c.get("x_scale") is None:
        return c.add_residual(c.activate(F.linear(c["x"], c["weight"], c.get("bias"))))
    y = quantised_matmul(c["x"], c["x_scale"], c.get("x_zero"), c["weight"], c["weight_scale"])
    return c.add_residual(c.activate(c.add_bias(y)).reshape(*c["x"].shape[:-1], -1))


def quantised_matmul(x: Tensor, scale: Tensor, zero: Tensor | None, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """x_scale[r] weight_scale[n] sum_k (x[r, k] - x_zero[r]) weight[n, k] in float64, where the sums are exact.

    x int8 [R, K] (or of e4m3, without zero), scale [R], zero [R], weight int8 [N, K] (or numbers of e4m3), weight_scale
    [N]; returns float64 [R, N].
    """
    whole = x.to(torch.float64).reshape(-1, x.shape[-1])
    if zero is not None:
        whole = whole - zero.to(torch.float64)[:, None]
    sums = F.linear(whole, weight.to(torch.float64))
    return sums * weight_scale.to(torch.float64) * scale.to(torch.float64)[:, None]


def _grouped_linear_shape(o: Operands) -> dict[str, Shape]:
    x, weight = o.inputs["x"].shape, o.constants["weight"].shape
    o.require(len(x) == 3 == len(weight) and x[1:] == (weight[0], weight[2]), "x [M, G, K] and weight [G, N, K]")
    output = (x[0], weight[0] * weight[1])
    o.require_bias_and_residual(output[1], output)
    _require_scales(o)
    return {"y": output}


def _grouped_linear_flops(o: Operands) -> int:
    return 2 * o.inputs["x"].shape[0] * math.prod(o.constants["weight"].shape)


def _grouped_linear(c: Call) -> Tensor:
    if c.get("x_scale") is None:
        return c.add_bias(grouped_matmul(c["x"], c["weight"]))
    return c.add_bias(quantised_grouped_matmul(c["x"], c["x_scale"], c.get("x_zero"), c["weight"], c["weight_scale"]))


def grouped_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """x [M, G, K] and weight [G, N, K] -> [M, G*N]: each group with its own weight."""
    return torch.einsum("mgk,gnk->mgn", x, weight).flatten(1)


def quantised_grouped_matmul(
    x: Tensor, scale: Tensor, zero: Tensor | None, weight: Tensor, weight_scale: Tensor
) -> Tensor:
    """`quantised_matmul` of every group: x int8 [M, G, K], scale and zero [M*G], weight int8 [G, N, K], weight_scale
    [G*N]; returns float64 [M, G*N].
    """
    rows, groups, _ = x.shape
    scales, zeros = scale.reshape(rows, groups), None if zero is None else zero.reshape(rows, groups)
    parts = zip(weight, weight_scale.reshape(groups, -1), strict=True)
    made = [
        quantised_matmul(x[:, g], scales[:, g], None if zeros is None else zeros[:, g], *part)
        for g, part in enumerate(parts)
    ]
    return torch.cat(made, 1)


def _quantize_rows_shape(o: Operands) -> dict[str, Shape]:
    rows = (o.inputs["x"].matrix[0],)
    formats = {role: tensor.dtype for role, tensor in o.declared.items()}
    integers: dict[str, DType] = {"y": "i8", "scale": "f32", "zero": "i32"}
    floats: dict[str, DType] = {"y": "f8", "scale": "f32"}
    o.require(formats in ({}, integers, floats), "outputs y i8, scale f32, zero i32, or y f8, scale f32")
    o.require(all(tensor.shape == rows for role, tensor in o.declared.items() if role != "y"), f"scales {list(rows)}")
    shapes = {"y": o.inputs["x"].shape, "scale": rows, "zero": rows}
    return {role: shape for role, shape in shapes.items() if role in (formats or integers)}


def quantize_rows(x: Tensor, dtype: DType = "i8") -> dict[str, Tensor]:
    """Rows [R, K] as y int8 [R, K], scale float32 [R], zero int32 [R]: section 4.1 of docs/reference/engine-format.md.

    With "f8": y float8_e4m3fn [R, K], scale float32 [R]. A row with NaN or infinity has a scale that is not finite.
    """
    rows = x.to(torch.float32).reshape(-1, x.shape[-1])
    if dtype == "f8":
        scale = _normal(rows.abs().amax(-1) / E4M3_LARGEST)
        held = (rows / scale[:, None]).clamp(-E4M3_LARGEST, E4M3_LARGEST)
        return {"y": held.to(torch.float8_e4m3fn).reshape(x.shape), "scale": scale}
    zeros = rows.new_zeros(rows.shape[0])
    low, high = torch.minimum(zeros, rows.amin(-1)), torch.maximum(zeros, rows.amax(-1))
    scale = _normal((high - low) / 255)
    zero = _to_int8_range(-128 - low / scale)
    y = _to_int8_range((rows / scale[:, None]).round().nan_to_num(0.0) + zero[:, None])
    return {"y": y.to(torch.int8).reshape(x.shape), "scale": scale, "zero": zero.to(torch.int32)}


def _normal(scale: Tensor) -> Tensor:
    """1 in the place of scales that are no normal numbers."""
    return torch.where(scale < SMALLEST_SCALE, torch.ones_like(scale), scale)


def _to_int8_range(x: Tensor) -> Tensor:
    return x.nan_to_num(0.0).round().clamp(-128, 127)


_X_SCALES = (Role("x_scale", optional=True), Role("x_zero", optional=True))
_WEIGHTS = (WEIGHT, BIAS, Role("weight_scale", optional=True))
_EIGHT_BIT: Mapping[str, DType] = {"x": "i8", "x_zero": "i32", "weight": "i8"}

SPECS = (
    OpSpec("linear", _linear_shape, _linear, (X, RESIDUAL, *_X_SCALES), _WEIGHTS, {"activation": "activation"},
           _linear_flops, matmul=True, integers=_EIGHT_BIT, tolerance=MATMUL_TOLERANCE),
    OpSpec("quantize_rows", _quantize_rows_shape, lambda c: quantize_rows(c["x"], c.declared["y"].dtype), (X,),
           outputs=("y", "scale", "zero"), integers={"y": "i8", "zero": "i32"}),
    OpSpec("grouped_linear", _grouped_linear_shape, _grouped_linear, (X, *_X_SCALES), _WEIGHTS, {},
           _grouped_linear_flops, matmul=True, integers=_EIGHT_BIT, tolerance=MATMUL_TOLERANCE),
)  # fmt: skip
