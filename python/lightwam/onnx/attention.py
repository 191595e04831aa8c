# SPDX-License-Identifier: Apache-2.0
"""Attention, rotation and the norms of queries and keys in ONNX. Symbols as in `lightwam.engine.ops`."""

from __future__ import annotations

import math

import numpy as np

from lightwam.engine.dtypes import Array
from lightwam.engine.graph import Op
from lightwam.onnx.lowering import Lowering
from lightwam.onnx.rope import half_split_order

MASKED = -1e30  # the logit of a key that is not there; finite, so that no format makes NaN of it


def row_norm(t: Lowering, op: Op, weight: str) -> str:
    x = t.rows(op.inputs["x"])
    return t.model.node("RMSNormalization", [x, weight], f"{op.name}:rms", axis=-1, epsilon=op.attrs["eps"])


def reordered(t: Lowering, op: Op, role: str, heads: int) -> str:
    """A constant [heads*d, ...] with every head's pairs (2i, 2i+1) split into halves."""
    constant = t.graph.constants[op.constants[role]]
    order = half_split_order(constant.type.shape[0], heads)
    return t.model.constant(constant, "half_split", None, lambda array: array[order])


def rms_norm_rope(t: Lowering, op: Op) -> None:
    heads = op.count("heads")
    if op.inputs["x"] in t.half_split:
        _half_split_rope(t, op, heads)
        return
    width = t.type(op.inputs["x"]).shape[-1]
    normed = row_norm(t, op, t.constant(op, "weight"))
    parts = [t.graph.constants[op.constants[part]] for part in ("cos", "sin")]
    tables = [t.model.constant(part, "batch", (1, *part.type.shape), lambda table: table[None]) for part in parts]
    x = t.model.reshape(normed, (1, -1, width), f"{op.name}:batch")
    y = t.model.node("RotaryEmbedding", [x, *tables], f"{op.name}:rotated", interleaved=1, num_heads=heads)
    t.put(op.outputs["y"], "rows", t.model.reshape(y, (-1, width), f"{op.name}:rows"))


def _half_split_rope(t: Lowering, op: Op, heads: int) -> None:
    """x cos + (-second half, first half) sin over [1, heads, S, d]: the pattern that is recognised as one rotation."""
    model, name, width = t.model, op.name, t.type(op.inputs["x"]).shape[-1]
    half = width // heads // 2
    x = t.split_heads(row_norm(t, op, reordered(t, op, "weight", heads)), heads, width, f"{name}:heads")
    cos, sin = (_doubled(t, op, part) for part in ("cos", "sin"))
    axis, step = model.integers(3), model.integers(1)
    first = model.node("Slice", [x, model.integers(0), model.integers(half), axis, step], f"{name}:first")
    second = model.node("Slice", [x, model.integers(half), model.integers(2**62), axis, step], f"{name}:second")
    negated = model.node("Neg", [second], f"{name}:negated")
    turned = model.node("Concat", [negated, first], f"{name}:turned", axis=-1)
    along = model.node("Mul", [x, cos], f"{name}:along")
    across = model.node("Mul", [turned, sin], f"{name}:across")
    t.put(op.outputs["y"], "heads", model.node("Add", [along, across], f"{name}:rotated"))


def _doubled(t: Lowering, op: Op, part: str) -> str:
    """A table [S, d/2] as [1, 1, S, d], once for either half."""
    constant = t.graph.constants[op.constants[part]]
    rows, half = constant.type.shape
    return t.model.constant(
        constant, "doubled", (1, 1, rows, 2 * half), lambda x: np.concatenate([x, x], 1)[None, None]
    )


def self_attention(t: Lowering, op: Op) -> None:
    heads = op.count("heads")
    q, k, v = (t.heads(op.inputs[role], heads) for role in "qkv")
    attended = t.model.node("Attention", [q, k, v], f"{op.name}:attended", scale=op.attrs["scale"])
    _join_heads(t, op, attended, t.type(op.outputs["y"]).shape[-1])


def _join_heads(t: Lowering, op: Op, attended: str, width: int) -> None:
    """[1, heads, S, d] -> the output's rows [S, heads*d]."""
    by_token = t.model.node("Transpose", [attended], f"{op.name}:by_token", perm=[0, 2, 1, 3])
    t.put(op.outputs["y"], "rows", t.model.reshape(by_token, (-1, width), f"{op.name}:joined"))


def cross_attention(t: Lowering, op: Op) -> None:
    shares, heads = _shares(t, op), op.count("heads")
    width = t.type(op.inputs["value_text"]).shape[-1]
    values = t.split_heads(_with_proprio(t, op, "value"), heads, width, f"{op.name}:values")
    _join_heads(t, op, t.model.node("MatMul", [shares, values], f"{op.name}:attended"), width)


def _with_proprio(t: Lowering, op: Op, what: str) -> str:
    """Rows of the text, then those of the state: [n + E, ...]."""
    text, proprio = op.inputs[f"{what}_text"], op.inputs.get(f"{what}_proprio")
    if proprio is None:
        return t.rows(text)
    return t.model.node("Concat", [t.rows(text), t.rows(proprio)], f"{op.name}:{what}s_joined", axis=0)


def _shares(t: Lowering, op: Op) -> str:
    """softmax(q k * scale + bias) over text and state keys, [1, heads, S, n + E]."""
    model, heads, scale = t.model, op.count("heads"), op.number("scale")
    width = t.type(op.inputs["key_text"]).shape[-1]
    joined = model.reshape(_with_proprio(t, op, "key"), (1, -1, heads, width // heads), f"{op.name}:keys_split")
    keys = model.node("Transpose", [joined], f"{op.name}:keys", perm=[0, 2, 3, 1])
    logits = model.node("MatMul", [t.heads(op.inputs["q"], heads), keys], f"{op.name}:logits")
    scaled = model.node("Mul", [logits, model.number(scale)], f"{op.name}:scaled")
    bias = t.rows(op.inputs["key_bias"])
    if "key_proprio" in op.inputs:
        count = t.type(op.inputs["key_proprio"]).shape[0]
        none = model.table(f"zeros.{count}", np.zeros(count, np.float32))
        bias = model.node("Concat", [bias, none], f"{op.name}:bias", axis=0)
    biased = model.node("Add", [scaled, bias], f"{op.name}:biased")
    return model.node("Softmax", [biased], f"{op.name}:shares", axis=-1)


def cross_attention_folded(t: Lowering, op: Op) -> None:
    """One matmul of [S, heads * keys] with [heads * keys, N]."""
    model, heads = t.model, op.count("heads")
    width = t.type(op.outputs["y"]).shape[-1]
    shares = model.node("Transpose", [_shares(t, op)], f"{op.name}:by_token", perm=[0, 2, 1, 3])
    tokens = t.type(op.inputs["q"]).shape[0]
    joined = model.reshape(shares, (tokens, -1), f"{op.name}:joined")
    parts = model.reshape(_with_proprio(t, op, "output"), (-1, heads, width), f"{op.name}:outputs_split")
    by_head = model.node("Transpose", [parts], f"{op.name}:outputs_by_head", perm=[1, 0, 2])
    outputs = model.reshape(by_head, (-1, width), f"{op.name}:outputs")
    y = model.node("MatMul", [joined, outputs], f"{op.name}:summed")
    for bias in t.optional(op, "bias"):
        y = model.node("Add", [y, bias], f"{op.name}:biased_output")
    t.put(op.outputs["y"], "rows", t.add_residual(op, y, f"{op.name}:residual"))


def text_key_bias(t: Lowering, op: Op) -> None:
    """log(L - n) at row n of the text's n rows, the rows behind it masked. A constant where n is fixed."""
    model, length = t.model, int(t.graph.policy["context_rows"])
    if t.text_rows is not None:
        t.put(op.outputs["key_bias"], "rows", model.table(f"{op.name}:fixed", fixed_key_bias(length, t.text_rows)))
        return
    rows = model.node("Cast", [t.rows(op.inputs["text_rows"])], f"{op.name}:rows", to=1)
    index = model.table("row_index", np.arange(length, dtype=np.float32))
    after = model.node("Sub", [model.number(length), rows], f"{op.name}:after")
    padded = model.node("Max", [after, model.number(1.0)], f"{op.name}:padded")
    bias = model.node("Log", [padded], f"{op.name}:log")
    beyond = model.node("Greater", [index, rows], f"{op.name}:beyond")
    at_row = model.node("Equal", [index, rows], f"{op.name}:at_row")
    chosen = model.node("Where", [at_row, bias, model.number(0.0)], f"{op.name}:chosen")
    masked = model.node("Where", [beyond, model.number(MASKED), chosen], f"{op.name}:masked")
    t.put(op.outputs["key_bias"], "rows", masked)


def fixed_key_bias(length: int, text_rows: int) -> Array:
    """What `text_key_bias` makes of n rows: f32 [min(n + 1, L)]."""
    bias = np.zeros(min(text_rows + 1, length), np.float32)
    if text_rows < length:
        bias[text_rows] = math.log(length - text_rows)
    return bias
