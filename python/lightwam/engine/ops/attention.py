# SPDX-License-Identifier: Apache-2.0
"""Attention, the bias of the instruction's keys, and pooling over tokens. Symbols as in `lightwam.engine.ops`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightwam.engine.dtypes import Shape
from lightwam.engine.graph import TensorType
from lightwam.engine.lazy_torch import F, torch
from lightwam.engine.ops.norms import layer_norm
from lightwam.engine.ops.spec import BIAS, RESIDUAL, AttrKind, Call, Operands, OpSpec, Role, X

if TYPE_CHECKING:
    from torch import Tensor


def _self_attention_shape(o: Operands) -> dict[str, Shape]:
    q = o.inputs["q"]
    alike = all((x.dtype, x.matrix) == (q.dtype, q.matrix) for x in (o.inputs["k"], o.inputs["v"]))
    o.require(alike, "q, k, v of one format and shape [S, D]")
    o.require(q.matrix[1] % o.count("heads") == 0, "heads that divide D")
    return {"y": q.shape}


def _self_attention_flops(o: Operands) -> int:
    """Logits of all pairs of tokens, and the averages."""
    return 4 * o.inputs["q"].matrix[0] * math.prod(o.inputs["q"].shape)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[rows, heads*d] -> [heads, rows, d]."""
    return x.reshape(-1, heads, x.shape[-1] // heads).transpose(0, 1)


def _shares(q: Tensor, k: Tensor, heads: int, scale: float, key_bias: Tensor | None = None) -> Tensor:
    """Softmax over the keys: p[h, s, k]."""
    logits = _by_head(q, heads) @ _by_head(k, heads).transpose(-1, -2) * scale
    return (logits if key_bias is None else logits + key_bias).softmax(-1)


def _self_attention(c: Call) -> Tensor:
    shares = _shares(c["q"], c["k"], c.count("heads"), c.number("scale"))
    return (shares @ _by_head(c["v"], c.count("heads"))).transpose(0, 1).flatten(1)


def _require_keys(o: Operands, carried: str) -> None:
    """Queries, keys and what they carry (`carried`_text, `carried`_proprio) of both kinds of cross-attention."""
    q, key, text = o.inputs["q"], o.inputs["key_text"], o.inputs[f"{carried}_text"]
    rows, width = key.matrix[0], q.matrix[1]
    o.require(width % o.count("heads") == 0, "heads that divide the width of q")
    o.require(key.matrix == (rows, width) and text.matrix[0] == rows, f"key_text [L, D] and {carried}_text of L rows")
    o.require(o.inputs["key_bias"] == TensorType("f32", (rows,)), "key_bias f32[L]")
    o.require(o.inputs["key_count"] == TensorType("i32", (1,)), "key_count i32[1]")
    own, proprio = o.inputs.get("key_proprio"), o.inputs.get(f"{carried}_proprio")
    o.require((own is None) == (proprio is None), f"key_proprio and {carried}_proprio, or neither")
    if own is not None and proprio is not None:
        o.require(own.matrix[1] == width, "key_proprio [E, D]")
        o.require(proprio.matrix == (own.matrix[0], text.matrix[1]), f"{carried}_proprio of E rows, as {carried}_text")
    o.require(all(x is None or x.dtype == q.dtype for x in (key, text, own, proprio)), "keys in the format of q")


def _cross_attention_shape(o: Operands) -> dict[str, Shape]:
    _require_keys(o, "value")
    o.require(o.inputs["value_text"].matrix[1] == o.inputs["q"].matrix[1], "values of q's width")
    return {"y": o.inputs["q"].shape}


def _num_keys(o: Operands) -> int:
    """All L text keys, and the proprio keys; `key_count` may make it fewer at run time."""
    return o.inputs["key_text"].matrix[0] + (o.inputs["key_proprio"].matrix[0] if "key_proprio" in o.inputs else 0)


def _cross_attention_flops(o: Operands) -> int:
    return 4 * math.prod(o.inputs["q"].shape) * _num_keys(o)


def _cross_shares(c: Call, role: str) -> tuple[Tensor, Tensor]:
    """Shares p[h, s, k] of the text keys in use and the proprio keys, and what the keys carry, [heads, k, n]."""
    count, heads = int(c["key_count"].item()), c.count("heads")
    keys, carried, bias = c.matrix("key_text")[:count], c.matrix(f"{role}_text")[:count], c["key_bias"][:count]
    if c.get("key_proprio") is not None:
        keys = torch.cat([keys, c.matrix("key_proprio")])
        carried = torch.cat([carried, c.matrix(f"{role}_proprio")])
        bias = F.pad(bias, (0, len(c.matrix("key_proprio"))))
    return _shares(c["q"], keys, heads, c.number("scale"), bias), _by_head(carried, heads)


def _cross_attention(c: Call) -> Tensor:
    shares, values = _cross_shares(c, "value")
    return (shares @ values).transpose(0, 1).flatten(1)


def _cross_attention_folded_shape(o: Operands) -> dict[str, Shape]:
    _require_keys(o, "output")
    (rows, _), (_, width), heads = o.inputs["q"].matrix, o.inputs["output_text"].matrix, o.count("heads")
    o.require(width % heads == 0, "output_text of a whole width N a head")
    o.require(rows * heads * _num_keys(o) <= MOST_PROBABILITIES, f"at most {MOST_PROBABILITIES} probabilities")
    output = (rows, width // heads)
    o.require_bias_and_residual(output[1], output)
    return {"y": output}


def _cross_attention_folded_flops(o: Operands) -> int:
    tokens, width = o.inputs["q"].matrix
    return 2 * tokens * _num_keys(o) * (width + o.inputs["output_text"].matrix[1])


def _cross_attention_folded(c: Call) -> Tensor:
    shares, outputs = _cross_shares(c, "output")
    return c.add_residual(c.add_bias(torch.einsum("hsk,hkn->sn", shares, outputs)))


def _text_key_bias_shape(o: Operands) -> dict[str, Shape]:
    o.require("key_bias" in o.declared, "an output key_bias")
    rows = o.declared["key_bias"].shape
    o.require(o.inputs["text_rows"] == TensorType("i32", (1,)), "text_rows i32[1]")
    declared = {"key_bias": TensorType("f32", rows[:1]), "key_count": TensorType("i32", (1,))}
    o.require(dict(o.declared) == declared, "key_bias f32[L] and key_count i32[1]")
    return {"key_bias": rows, "key_count": (1,)}


def _text_key_bias(c: Call) -> dict[str, Tensor]:
    (length,) = c.declared["key_bias"].shape
    rows = int(c["text_rows"].item())
    bias = torch.zeros(length, dtype=torch.float64)
    if rows < length:
        bias[rows] = math.log(length - rows)
    return {"key_bias": bias, "key_count": torch.tensor([min(rows + 1, length)])}


def _learned_query_pool_shape(o: Operands) -> dict[str, Shape]:
    _, width = o.inputs["x"].matrix
    scores, merge = o.constants["scores"], o.constants["merge"]
    heads, queries = o.count("heads"), o.count("queries")
    o.require(scores.shape == (heads * queries, width), "scores [heads*queries, D]")
    o.require(merge.dtype == "f32" and len(merge.shape) == 2 and merge.shape[1] == queries, "merge f32[M, queries]")
    return {"y": (merge.shape[0], heads, width)}


def _learned_query_pool_flops(o: Operands) -> int:
    """Scores, then weighted token means; mixing the queries' probabilities first leaves heads*M rows to sum."""
    tokens, width = o.inputs["x"].matrix
    rows = o.constants["scores"].shape[0] + o.count("heads") * o.constants["merge"].shape[0]
    return 2 * tokens * width * rows


def _learned_query_pool(c: Call) -> Tensor:
    heads, queries = c.count("heads"), c.count("queries")
    normed = layer_norm(c.matrix("x"), c.number("eps"))
    shares = (c["scores"] @ normed.T).softmax(-1).reshape(heads, queries, -1)  # p[h, q, s]
    return torch.einsum("mq,hqs,sd->mhd", c["merge"], shares, normed)


def probabilities(o: Operands) -> int:
    """How many numbers the softmax of an attention or of a pooling makes; 0 for other ops."""
    if o.op == "self_attention":
        return o.inputs["q"].matrix[0] ** 2 * o.count("heads")
    if o.op in ("cross_attention", "cross_attention_folded"):
        return o.inputs["q"].matrix[0] * _num_keys(o) * o.count("heads")
    return o.inputs["x"].matrix[0] * o.constants["scores"].shape[0] if o.op == "learned_query_pool" else 0


def _mean_pool_shape(o: Operands) -> dict[str, Shape]:
    return {"y": (1, o.inputs["x"].matrix[1])}


def _cross_inputs(carried: str) -> tuple[Role, ...]:
    """Roles of a cross-attention whose keys carry values, or outputs."""
    always = ("q", "key_text", f"{carried}_text", "key_bias", "key_count")
    proprio = ("key_proprio", f"{carried}_proprio")
    return (*(Role(name) for name in always), *(Role(name, optional=True) for name in proprio))


#: The runtime holds those of all tokens, heads and keys of a folded attention at once.
MOST_PROBABILITIES = 1 << 32
_ATTRS: dict[str, AttrKind] = {"heads": "count", "scale": "positive"}

SPECS = (
    OpSpec("self_attention", _self_attention_shape, _self_attention, (Role("q"), Role("k"), Role("v")), (), _ATTRS,
           _self_attention_flops),
    OpSpec("cross_attention", _cross_attention_shape, _cross_attention, _cross_inputs("value"), (), _ATTRS,
           _cross_attention_flops, integers={"key_count": "i32"}, text_inputs=("key_text", "value_text", "key_bias")),
    OpSpec("cross_attention_folded", _cross_attention_folded_shape, _cross_attention_folded,
           (*_cross_inputs("output"), RESIDUAL), (BIAS,), _ATTRS, _cross_attention_folded_flops,
           integers={"key_count": "i32"}, text_inputs=("key_text", "output_text", "key_bias")),
    OpSpec("text_key_bias", _text_key_bias_shape, _text_key_bias, (Role("text_rows"),),
           outputs=("key_bias", "key_count"), exact=True, integers={"text_rows": "i32", "key_count": "i32"}),
    OpSpec("learned_query_pool", _learned_query_pool_shape, _learned_query_pool, (X,), (Role("scores"), Role("merge")),
           {"heads": "count", "queries": "count", "eps": "positive"}, _learned_query_pool_flops, exact=True),
    OpSpec("mean_pool", _mean_pool_shape, lambda c: c.matrix("x").mean(0, keepdim=True), (X,)),
)  # fmt: skip
