# SPDX-License-Identifier: Apache-2.0
"""Attention, the bias of the instruction's keys, and pooling over tokens. Symbols as in `lightwam.engine.ops`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightwam.engine.dtypes import Shape
from lightwam.engine.graph import TensorType
from lightwam.engine.lazy_torch import F, torch
from lightwam.engine.ops.spec import BIAS, RESIDUAL, AttrKind, Call, Operands, OpSpec, Role, X

if TYPE_CHECKING:
    from torch import Tensor


def _self_attention_shape(o: Operands) -> dict[str, Shape]:
    q = o.inputs["q"]
    o.require(q == o.inputs["k"] == o.inputs["v"] and len(q.shape) == 2, "q, k, v of one format and shape [S, D]")
    o.require(q.shape[1] % o.count("heads") == 0, "heads that divide D")
    return {"y": q.shape}


def _self_attention_flops(o: Operands) -> int:
    """Logits of all pairs of tokens, and the averages."""
    return 4 * o.inputs["q"].shape[0] * math.prod(o.inputs["q"].shape)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[rows, heads*d] -> [heads, rows, d]."""
    return x.reshape(x.shape[0], heads, -1).transpose(0, 1)


def _shares(q: Tensor, k: Tensor, heads: int, scale: float, key_bias: Tensor | None = None) -> Tensor:
    """Softmax over the keys: p[h, s, k]."""
    logits = _by_head(q, heads) @ _by_head(k, heads).transpose(-1, -2) * scale
    return (logits if key_bias is None else logits + key_bias).softmax(-1)


def _self_attention(c: Call) -> Tensor:
    shares = _shares(c["q"], c["k"], c.count("heads"), c.number("scale"))
    return (shares @ _by_head(c["v"], c.count("heads"))).transpose(0, 1).flatten(1)


def _require_keys(o: Operands) -> None:
    """Queries and keys of both kinds of cross-attention."""
    q, key, bias = o.inputs["q"], o.inputs["key_text"], o.inputs["key_bias"]
    o.require(len(q.shape) == 2 == len(key.shape), "q [S, D] and key_text [L, D]")
    o.require(
        key.shape[1] == q.shape[1] and q.shape[1] % o.count("heads") == 0, "keys of q's width, heads that divide it"
    )
    o.require(bias == TensorType("f32", (key.shape[0],)), "key_bias f32[L]")
    o.require(o.inputs["key_count"] == TensorType("i32", (1,)), "key_count i32[1]")
    proprio = o.inputs.get("key_proprio")
    o.require(proprio is None or proprio.matrix[1] == q.shape[1], "key_proprio [E, D]")


def _cross_attention_shape(o: Operands) -> dict[str, Shape]:
    _require_keys(o)
    o.require(o.inputs["key_text"] == o.inputs["value_text"], "key_text and value_text alike")
    o.require(o.inputs.get("key_proprio") == o.inputs.get("value_proprio"), "key_, value_proprio alike, or neither")
    return {"y": o.inputs["q"].shape}


def _num_keys(o: Operands) -> int:
    """All L text keys, and the proprio keys; `key_count` may make it fewer at run time."""
    return o.inputs["key_text"].shape[0] + (o.inputs["key_proprio"].matrix[0] if "key_proprio" in o.inputs else 0)


def _cross_attention_flops(o: Operands) -> int:
    return 4 * math.prod(o.inputs["q"].shape) * _num_keys(o)


def _cross_shares(c: Call, role: str) -> tuple[Tensor, Tensor]:
    """Shares p[h, s, k] of the text keys in use and the proprio keys, and what the keys carry, [heads, k, n]."""
    count, heads = int(c["key_count"].item()), c.count("heads")
    keys, carried, bias = c["key_text"][:count], c[f"{role}_text"][:count], c["key_bias"][:count]
    if c.get("key_proprio") is not None:
        keys = torch.cat([keys, c["key_proprio"]])
        carried = torch.cat([carried, c[f"{role}_proprio"]])
        bias = F.pad(bias, (0, c["key_proprio"].shape[0]))
    return _shares(c["q"], keys, heads, c.number("scale"), bias), _by_head(carried, heads)


def _cross_attention(c: Call) -> Tensor:
    shares, values = _cross_shares(c, "value")
    return (shares @ values).transpose(0, 1).flatten(1)


def _cross_attention_folded_shape(o: Operands) -> dict[str, Shape]:
    _require_keys(o)
    q, text, heads = o.inputs["q"], o.inputs["output_text"], o.count("heads")
    o.require(text.shape == (o.inputs["key_text"].shape[0], text.matrix[1]), "output_text [L, heads*N]")
    o.require(text.matrix[1] % heads == 0, "output_text of a whole width N a head")
    key, proprio = o.inputs.get("key_proprio"), o.inputs.get("output_proprio")
    o.require((key is None) == (proprio is None), "key_proprio and output_proprio, or neither")
    if key is not None and proprio is not None:
        o.require(proprio.matrix == (key.matrix[0], text.shape[1]), "output_proprio [E, heads*N]")
    operands = (o.inputs["key_text"], text, key, proprio)
    o.require(all(x is None or x.dtype == q.dtype for x in operands), "keys and outputs in the format of q")
    output = (q.shape[0], text.shape[1] // heads)
    o.require_bias_and_residual(output[1], output)
    bias = o.constants.get("bias")
    o.require(bias is None or bias.dtype == "f32", f"bias f32[{output[1]}]")
    return {"y": output}


def _cross_attention_folded_flops(o: Operands) -> int:
    tokens, width = o.inputs["q"].shape
    return 2 * tokens * _num_keys(o) * (width + o.inputs["output_text"].shape[1])


def _cross_attention_folded(c: Call) -> Tensor:
    shares, outputs = _cross_shares(c, "output")
    return c.add_residual(c.add_bias(torch.einsum("hsk,hkn->sn", shares, outputs)))


def _text_key_bias_shape(o: Operands) -> dict[str, Shape]:
    rows = o.declared["key_bias"].shape
    o.require(o.inputs["text_rows"] == TensorType("i32", (1,)), "text_rows i32[1]")
    o.require(len(rows) == 1 and o.declared["key_count"].dtype == "i32", "key_bias [L] and key_count i32[1]")
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
    o.require(scores == TensorType("f32", (heads * queries, width)), "scores f32[heads*queries, D]")
    o.require(merge.dtype == "f32" and len(merge.shape) == 2 and merge.shape[1] == queries, "merge f32[M, queries]")
    return {"y": (merge.shape[0], heads, width)}


def _learned_query_pool_flops(o: Operands) -> int:
    """Scores, then weighted token means; mixing the queries' probabilities first leaves heads*M rows to sum."""
    tokens, width = o.inputs["x"].matrix
    rows = o.constants["scores"].shape[0] + o.count("heads") * o.constants["merge"].shape[0]
    return 2 * tokens * width * rows


def _learned_query_pool(c: Call) -> Tensor:
    heads, queries = c.count("heads"), c.count("queries")
    normed = F.layer_norm(c["x"], c["x"].shape[-1:], eps=c.number("eps"))
    shares = (c["scores"] @ normed.T).softmax(-1).reshape(heads, queries, -1)  # p[h, q, s]
    return torch.einsum("mq,hqs,sd->mhd", c["merge"], shares, normed)


def _mean_pool_shape(o: Operands) -> dict[str, Shape]:
    return {"y": (1, o.inputs["x"].matrix[1])}


def _cross_inputs(carried: str) -> tuple[Role, ...]:
    """Roles of a cross-attention whose keys carry values, or outputs."""
    always = ("q", "key_text", f"{carried}_text", "key_bias", "key_count")
    proprio = ("key_proprio", f"{carried}_proprio")
    return (*(Role(name) for name in always), *(Role(name, optional=True) for name in proprio))


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
           outputs=("key_bias", "key_count"), integers={"text_rows": "i32", "key_count": "i32"}),
    OpSpec("learned_query_pool", _learned_query_pool_shape, _learned_query_pool, (X,), (Role("scores"), Role("merge")),
           {"heads": "count", "queries": "count", "eps": "positive"}, _learned_query_pool_flops),
    OpSpec("mean_pool", _mean_pool_shape, lambda c: c["x"].flatten(0, -2).mean(0, keepdim=True), (X,)),
)  # fmt: skip
