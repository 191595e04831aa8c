# SPDX-License-Identifier: Apache-2.0
"""Rewrites that every plan needs: ops without a kernel of their own in the terms of those that have one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lightwam.engine.dtypes import Array
from lightwam.engine.graph import Constant, Graph, TensorType
from lightwam.errors import ExportError
from lightwam.gpu.nodes import Node, Nodes


def reshapes_as_parts(nodes: Nodes) -> None:
    """A reshape is no launch: its output is its input's bytes under another name."""
    for node in nodes.of_kind("reshape"):
        x, y = nodes.place(node.inputs["x"]).base, node.outputs["y"]  # so far, parts are whole values
        if y in nodes.pinned and x in nodes.pinned:
            raise ExportError(f"op {node.name}: reshape of {x}, which is not in the arena: copy it first")
        nodes.replace([node])
        if y in nodes.pinned:  # the bytes are where the world outside looks for them: x is another name of them
            nodes.put(x, y, 0)
        else:
            nodes.put(y, x, 0)


def single_rows_of_groups(nodes: Nodes) -> None:
    """A grouped linear of one row is a batch of matmuls of single rows: x [G, 1, K], weight [G, N, K]."""
    for node in nodes.of_kind("grouped_linear"):
        rows, groups, _ = nodes.types[node.inputs["x"]].shape
        if rows == 1:
            node.kind = "linear"
            node.attrs = {"activation": "none", "batch": groups}


def pools_in_two_steps(nodes: Nodes) -> None:
    """Learned-query pooling: the logits and the moments of every row, then softmax and the weighted sum."""
    for node in nodes.of_kind("learned_query_pool"):
        nodes.replace([node], *pool_steps(nodes, node))


def pool_steps(nodes: Nodes, pool: Node) -> tuple[Node, Node]:
    """A pooling, or a batch of them, as its two steps."""
    tokens = nodes.types[pool.inputs["x"]].matrix[0]
    widths = {"logits": pool.count("heads") * pool.count("queries"), "moments": 2}
    between = {
        role: nodes.new_value(f"{pool.name}.{role}", TensorType("f32", (tokens, width)))
        for role, width in widths.items()
    }
    scores, merge = ({role: pool.weights[role]} for role in ("scores", "merge"))
    return (
        replace(pool, kind="learned_query_scores", name=f"{pool.name}.scores", weights=scores, outputs=between),
        replace(pool, kind="learned_query_sum", inputs=pool.inputs | between, weights=merge),
    )


def scalings_as_affine_steps(nodes: Nodes) -> None:
    """Scale, shift and clamp is one step of the affine kernel; the gripper rule is what follows no step at all."""
    for node in nodes.of_kind("scale_shift_clamp", "gripper_rule"):
        if node.kind == "scale_shift_clamp":
            node.weights = {f"{role}0": names for role, names in node.weights.items()}
            node.attrs = {"steps": 1, "minimum0": node.attrs["minimum"], "maximum0": node.attrs["maximum"]}
        else:
            node.attrs = {"steps": 0, "column": node.attrs["column"]}
        node.kind = "affine"


def sums_of_eight_bit_weights(nodes: Nodes) -> None:
    """An 8-bit matmul takes its rows' zero points out of the sums afterwards: it needs the sum of every weight row."""
    for node in nodes.of_kind("linear", "grouped_linear"):
        (weight,) = node.weights["weight"]
        if nodes.constants[weight].type.dtype == "i8":
            node.weights["weight_sum"] = (sum_name(weight),)


def cameras_as_inputs(nodes: Nodes) -> None:
    """Preprocessing reads the cameras' frames and their sizes, which the runtime binds."""
    for node in nodes.of_kind("preprocess_images"):
        names = [f"frames.{camera['name']}" for camera in nodes.policy["cameras"]]
        node.inputs = {f"frame{index}": name for index, name in enumerate(names)} | {"frame_sizes": "frame_sizes"}
        nodes.types["frame_sizes"] = TensorType("i32", (len(names), 2))
        nodes.frames = {*names, "frame_sizes"}
        nodes.pinned |= nodes.frames
        nodes.changed()


def sum_name(weight: str) -> str:
    """The constant with the sums of an 8-bit weight's rows."""
    return f"{weight}.row_sums"


def weight_sums(graph: Graph) -> dict[str, Constant]:
    """The sums of every 8-bit weight's rows, as f32, one a row of the matrix view (exact: below 2^24)."""
    eight_bit = [constant for constant in graph.constants.values() if constant.type.dtype == "i8"]
    return {sum_name(weight.name): _row_sums(weight) for weight in eight_bit}


def _row_sums(weight: Constant) -> Constant:
    def load() -> Array:
        return np.asarray(weight.array().sum(axis=-1, dtype=np.int64).ravel(), np.float32)

    return Constant(sum_name(weight.name), TensorType("f32", weight.type.matrix[:1]), load)


SIMPLIFICATIONS = (
    reshapes_as_parts, sums_of_eight_bit_weights, single_rows_of_groups, pools_in_two_steps, scalings_as_affine_steps,
    cameras_as_inputs,
)  # fmt: skip
