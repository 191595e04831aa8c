# SPDX-License-Identifier: Apache-2.0
"""Shape and FLOP rules of the attention ops (engine-format.md, section 4). Symbols as in `lightwam.engine.ops`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightwam.engine.dtypes import Shape, num_elements
from lightwam.engine.graph import TensorType

if TYPE_CHECKING:
    from lightwam.engine.ops import Operands


def self_attention(o: Operands) -> dict[str, Shape]:
    q = o.inputs["q"]
    o.require(q == o.inputs["k"] == o.inputs["v"] and len(q.shape) == 2, "q, k, v of one format and shape [S, D]")
    o.require(q.shape[1] % o.count("heads") == 0, "heads that divide D")
    return {"y": q.shape}


def _check_keys(o: Operands) -> None:
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


def cross_attention(o: Operands) -> dict[str, Shape]:
    _check_keys(o)
    o.require(o.inputs["key_text"] == o.inputs["value_text"], "key_text and value_text alike")
    o.require(o.inputs.get("key_proprio") == o.inputs.get("value_proprio"), "key_, value_proprio alike, or neither")
    return {"y": o.inputs["q"].shape}


def cross_attention_folded(o: Operands) -> dict[str, Shape]:
    _check_keys(o)
    q, text, heads = o.inputs["q"], o.inputs["output_text"], o.count("heads")
    o.require(text.shape == (o.inputs["key_text"].shape[0], text.matrix[1]), "output_text [L, heads*N]")
    o.require(text.matrix[1] % heads == 0, "output_text of a whole width N a head")
    key, proprio = o.inputs.get("key_proprio"), o.inputs.get("output_proprio")
    o.require((key is None) == (proprio is None), "key_proprio and output_proprio, or neither")
    if key is not None and proprio is not None:
        o.require(proprio.matrix == (key.matrix[0], text.shape[1]), "output_proprio [E, heads*N]")
    operands = (o.inputs["key_text"], text, key, proprio)
    o.require(all(x is None or x.dtype == q.dtype for x in operands), "keys and outputs in the format of q")
    bias = o.constants.get("bias")
    output = (q.shape[0], text.shape[1] // heads)
    o.require(bias is None or bias == TensorType("f32", output[1:]), f"bias f32[{output[1]}]")
    residual = o.inputs.get("residual")
    o.require(residual is None or residual.shape == output, f"residual {list(output)}")
    return {"y": output}


def _num_keys(o: Operands) -> int:
    """All L text keys, and the proprio keys; `key_count` may make it fewer at run time."""
    return o.inputs["key_text"].shape[0] + (o.inputs["key_proprio"].matrix[0] if "key_proprio" in o.inputs else 0)


def cross_attention_folded_flops(o: Operands) -> int:
    tokens, width = o.inputs["q"].shape
    return 2 * tokens * _num_keys(o) * (width + o.inputs["output_text"].shape[1])


def self_attention_flops(o: Operands) -> int:
    """Logits of all pairs of tokens, and the averages."""
    return 4 * o.inputs["q"].shape[0] * num_elements(o.inputs["q"].shape)


def cross_attention_flops(o: Operands) -> int:
    return 4 * num_elements(o.inputs["q"].shape) * _num_keys(o)
