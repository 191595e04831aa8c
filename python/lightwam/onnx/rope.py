# SPDX-License-Identifier: Apache-2.0
"""Where the interleaved rotation of an engine may be written as the half-split one, which runtimes know as one op.

Attention sees queries and keys only in their dot products, so the channels of a head may stand in any order as long as
it is the same for both: the linears that make them have their rows reordered, and nothing else changes.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from lightwam.engine.graph import Op, Program


def half_split_order(width: int, heads: int) -> NDArray[np.int64]:
    """Source of every channel [heads*d]: of each head first the even channels, then the odd ones."""
    order: NDArray[np.int64] = np.arange(width, dtype=np.int64).reshape(heads, -1, 2).transpose(0, 2, 1).ravel()
    return order


def half_split_values(program: Program) -> dict[str, int]:
    """Values to reorder -> heads: what a linear makes, a rotation alone reads, and attention alone after it."""
    writers = {name: op for op in program.ops for name in op.outputs.values()}
    readers: dict[str, list[Op]] = defaultdict(list)
    for op in program.ops:
        for name in op.inputs.values():
            readers[name].append(op)
    chosen: dict[str, int] = {}
    for op in program.ops:
        if op.op != "self_attention":
            continue
        sources = [_rotated_linear(op.inputs[role], op, writers, readers) for role in "qk"]
        if all(source is not None for source in sources):
            chosen.update({source: op.count("heads") for source in sources if source})
    return chosen


def _rotated_linear(value: str, attention: Op, writers: dict[str, Op], readers: dict[str, list[Op]]) -> str | None:
    """The linear's output behind a rotated query or key, if nothing else would notice another order."""
    rope = writers.get(value)
    if rope is None or rope.op != "rms_norm_rope" or rope.attrs["heads"] != attention.attrs["heads"]:
        return None
    source = rope.inputs["x"]
    linear = writers.get(source)
    alone = readers[value] == [attention] and readers[source] == [rope]
    plain = linear is not None and linear.op == "linear" and "residual" not in linear.inputs
    return source if alone and plain else None
