# SPDX-License-Identifier: Apache-2.0
"""Every op of an engine (engine-format.md, section 4) in ONNX, in the form that common runtimes run best."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lightwam.engine.dtypes import EIGHT_BITS
from lightwam.engine.graph import Op
from lightwam.errors import ExportError
from lightwam.onnx.attention import (
    cross_attention,
    cross_attention_folded,
    reordered,
    rms_norm_rope,
    row_norm,
    self_attention,
    text_key_bias,
)
from lightwam.onnx.lowering import Lowering


def lower(t: Lowering, op: Op) -> None:
    """Append an op of the engine. Raises `ExportError` for one that has no ONNX form, or no float form."""
    if op.op == "quantize_rows" or _dtypes(t, op).intersection(EIGHT_BITS):
        raise ExportError(f"op {op.name} ({op.op}) is eight-bit: export the policy in a float precision for ONNX")
    if op.op not in _LOWERINGS:
        raise ExportError(f"op {op.name} ({op.op}) has no ONNX form: run this engine with lightwam, or add one there")
    _LOWERINGS[op.op](t, op)


def _dtypes(t: Lowering, op: Op) -> set[str]:
    values = {t.program.values[name].type.dtype for name in op.inputs.values()}
    return values | {t.graph.constants[name].type.dtype for name in op.constants.values()}


def _conv2d(t: Lowering, op: Op) -> None:
    weight = t.graph.constants[op.constants["weight"]]
    out, height, width, channels = weight.type.shape
    kernel = t.model.constant(weight, "nchw", (out, channels, height, width), lambda w: w.transpose(0, 3, 1, 2))
    stride, padding = op.attrs["stride"], op.attrs["padding"]
    assert isinstance(padding, tuple)
    arguments = [t.map(op.inputs["x"]), kernel, *t.optional(op, "bias")]
    y = t.model.node("Conv", arguments, f"{op.name}:conv", strides=[stride, stride], pads=list(padding))
    y = t.activate(op, y)
    if "residual" in op.inputs:
        y = t.model.node("Add", [y, t.map(op.inputs["residual"])], f"{op.name}:residual")
    t.put(op.outputs["y"], "map", y)


def _linear(t: Lowering, op: Op) -> None:
    """Gemm reads the weight as it is stored, [N, K]. Where a half-split rotation follows, its rows are reordered."""
    value = op.outputs["y"]
    roles = [role for role in ("weight", "bias") if role in op.constants]
    if value in t.half_split:
        parts = [reordered(t, op, role, t.half_split[value]) for role in roles]
    else:
        parts = [t.constant(op, role) for role in roles]
    y = t.model.node("Gemm", [t.rows(op.inputs["x"]), *parts], f"{op.name}:gemm", transB=1)
    t.put(value, "rows", t.add_residual(op, t.activate(op, y), f"{op.name}:residual"))


def _grouped_linear(t: Lowering, op: Op) -> None:
    _, groups, depth = t.type(op.inputs["x"]).shape
    weight = t.graph.constants[op.constants["weight"]]
    columns = weight.type.shape[1]
    matrices = t.model.constant(weight, "transposed", (groups, depth, columns), lambda w: w.transpose(0, 2, 1))
    x = t.model.reshape(t.rows(op.inputs["x"]), (-1, groups, depth), f"{op.name}:groups")
    by_group = t.model.node("Transpose", [x], f"{op.name}:by_group", perm=[1, 0, 2])
    y = t.model.node("MatMul", [by_group, matrices], f"{op.name}:matmul")
    y = t.model.node("Transpose", [y], f"{op.name}:by_row", perm=[1, 0, 2])
    y = t.model.reshape(y, (-1, groups * columns), f"{op.name}:joined")
    for bias in t.optional(op, "bias"):
        y = t.model.node("Add", [y, bias], f"{op.name}:biased")
    t.put(op.outputs["y"], "rows", y)


def _layer_norm(t: Lowering, op: Op) -> None:
    width = t.type(op.inputs["x"]).shape[-1]
    affine = [*t.optional(op, "weight"), *t.optional(op, "bias")]
    scale = affine or [t.model.table(f"ones.{width}", np.ones(width, np.float32))]
    y = t.model.node("LayerNormalization", [t.rows(op.inputs["x"]), *scale], op.name, axis=-1, epsilon=op.attrs["eps"])
    t.put(op.outputs["y"], "rows", y)


def _rms_norm(t: Lowering, op: Op) -> None:
    value = op.inputs["x"]
    if t.layout_of(value) == "map":
        t.put(op.outputs["y"], "map", t.activate(op, _channel_norm(t, op)))
        return
    y = row_norm(t, op, t.constant(op, "weight"))
    t.put(op.outputs["y"], "rows", t.activate(op, y))


def _channel_norm(t: Lowering, op: Op) -> str:
    """Over the channels of [1, C, h, w]: x / |x| * (weight sqrt(C)), the shape that is recognised as one L2 norm."""
    model, x, width = t.model, t.map(op.inputs["x"]), t.type(op.inputs["x"]).shape[-1]
    weight, eps = t.graph.constants[op.constants["weight"]], op.number("eps")
    square = model.node("Pow", [x, model.number(2.0)], f"{op.name}:square")
    total = model.node("ReduceSum", [square, model.integers(1)], f"{op.name}:sum", keepdims=1)
    lifted = model.node("Add", [total, model.number(eps * width)], f"{op.name}:lifted")
    length = model.node("Sqrt", [lifted], f"{op.name}:length")
    unit = model.node("Div", [x, length], f"{op.name}:unit")
    root = np.float32(math.sqrt(width))
    scale = model.constant(weight, "map", (1, width, 1, 1), lambda w: (w * root).reshape(1, -1, 1, 1))
    return model.node("Mul", [unit, scale], f"{op.name}:scaled")


def _learned_query_pool(t: Lowering, op: Op) -> None:
    model, name = t.model, op.name
    heads, queries, eps = op.count("heads"), op.count("queries"), op.number("eps")
    tokens, width = t.type(op.inputs["x"]).matrix
    ones = model.table(f"ones.{width}", np.ones(width, np.float32))
    normed = model.node(
        "LayerNormalization", [t.rows(op.inputs["x"]), ones], f"{name}:normed", axis=-1, epsilon=eps
    )  # fmt: skip
    logits = model.node("Gemm", [t.constant(op, "scores"), normed], f"{name}:logits", transB=1)
    shares = model.node("Softmax", [logits], f"{name}:shares", axis=-1)
    by_head = model.reshape(shares, (heads, queries, tokens), f"{name}:by_head")
    merged = model.node("MatMul", [t.constant(op, "merge"), by_head], f"{name}:merged")  # [heads, M, S]
    by_slot = model.node("Transpose", [merged], f"{name}:by_slot", perm=[1, 0, 2])
    flat = model.reshape(by_slot, (-1, tokens), f"{name}:flat")
    t.put(op.outputs["y"], "rows", model.node("MatMul", [flat, normed], f"{name}:pooled"))


def _mean_pool(t: Lowering, op: Op) -> None:
    axis = t.model.integers(0)
    y = t.model.node("ReduceMean", [t.rows(op.inputs["x"]), axis], f"{op.name}:mean", keepdims=1)
    t.put(op.outputs["y"], "rows", y)


def _elementwise(kind: str) -> Callable[[Lowering, Op], None]:
    def lower(t: Lowering, op: Op) -> None:
        operands = [t.rows(op.inputs[role]) if role in op.inputs else t.constant(op, role) for role in "ab"]
        t.put(op.outputs["y"], "rows", t.model.node(kind, operands, f"{op.name}:{kind.lower()}"))

    return lower


def _concat(t: Lowering, op: Op) -> None:
    parts = [t.rows(op.inputs[f"x.{index}"]) for index in range(len(op.inputs))]
    t.put(op.outputs["y"], "rows", t.model.node("Concat", parts, f"{op.name}:joined", axis=-1))


def _scale_shift_clamp(t: Lowering, op: Op) -> None:
    scaled = t.model.node("Mul", [t.rows(op.inputs["x"]), t.constant(op, "scale")], f"{op.name}:scaled")
    y = t.model.node("Add", [scaled, t.constant(op, "shift")], f"{op.name}:shifted")
    for attr, kind in (("minimum", "Max"), ("maximum", "Min")):
        if op.attrs[attr] is not None:
            y = t.model.node(kind, [y, t.model.number(op.number(attr))], f"{op.name}:{attr}")
    t.put(op.outputs["y"], "rows", y)


def _gripper_rule(t: Lowering, op: Op) -> None:
    x, width, column = t.rows(op.inputs["x"]), t.type(op.inputs["x"]).shape[-1], op.attrs["column"]
    ruled = t.model.table(f"{op.name}:column", np.arange(width) == column)
    doubled = t.model.node("Mul", [x, t.model.number(-2.0)], f"{op.name}:doubled")
    shifted = t.model.node("Add", [doubled, t.model.number(1.0)], f"{op.name}:shifted")
    sign = t.model.node("Sign", [shifted], f"{op.name}:sign")
    t.put(op.outputs["y"], "rows", t.model.node("Where", [ruled, sign, x], f"{op.name}:ruled"))


def _preprocess_images(t: Lowering, op: Op) -> None:
    """The canvas is the model's input: what comes before it depends on the camera's own size."""
    shape = t.type(op.outputs["y"]).shape
    t.model.bind("canvas", shape)
    t.put(op.outputs["y"], "rows", t.model.reshape("canvas", (-1, shape[-1]), "canvas:rows"))


def _nchw_to_nhwc(t: Lowering, op: Op) -> None:
    shape = (1, *t.type(op.inputs["x"]).shape)
    x = t.layouts[op.inputs["x"]].get("input") or t.rows(op.inputs["x"])
    t.put(op.outputs["y"], "map", t.model.reshape(x, shape, f"{op.name}:batch"))


def _cast(t: Lowering, op: Op) -> None:
    """Values are float32 throughout."""
    t.layouts[op.outputs["y"]] = t.layouts[op.inputs["x"]]


def _reshape(t: Lowering, op: Op) -> None:
    before, after = t.type(op.inputs["x"]).matrix, t.type(op.outputs["y"]).matrix
    x = t.rows(op.inputs["x"])
    t.put(op.outputs["y"], "rows", x if before == after else t.model.reshape(x, (-1, after[1]), f"{op.name}:reshaped"))


_LOWERINGS: dict[str, Callable[[Lowering, Op], None]] = {
    "preprocess_images": _preprocess_images,
    "nchw_to_nhwc": _nchw_to_nhwc,
    "conv2d": _conv2d,
    "linear": _linear,
    "grouped_linear": _grouped_linear,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "rms_norm_rope": rms_norm_rope,
    "self_attention": self_attention,
    "cross_attention": cross_attention,
    "cross_attention_folded": cross_attention_folded,
    "text_key_bias": text_key_bias,
    "learned_query_pool": _learned_query_pool,
    "mean_pool": _mean_pool,
    "add": _elementwise("Add"),
    "subtract": _elementwise("Sub"),
    "concat": _concat,
    "scale_shift_clamp": _scale_shift_clamp,
    "gripper_rule": _gripper_rule,
    "cast": _cast,
    "reshape": _reshape,
}
