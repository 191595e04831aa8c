# SPDX-License-Identifier: Apache-2.0
"""Node -> the kernels' tasks: which kernel runs a node, and which value or weight each of its arguments is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightwam.engine.dtypes import EIGHT_BITS
from lightwam.engine.graph import TensorType
from lightwam.errors import ExportError
from lightwam.gpu.nodes import Node, Nodes
from lightwam.kernels.ops import (
    affine,
    conv2d,
    cross_attention,
    cross_attention_folded,
    elementwise,
    learned_query_scores,
    learned_query_sum,
    matmul,
    matvec,
    mean_pool,
    nchw_to_nhwc,
    preprocess_images,
    quantize_rows,
    rms_norm_rope,
    row_norm,
    self_attention,
    text_key_bias,
)
from lightwam.kernels.task import Task

#: A matmul of so few rows is bound by its weights and runs as `matvec`; so does one of so few columns, which has no
#: work for a tile, if its rows are not too many.
MATVEC_ROWS = 4
MATVEC_COLUMNS = 16
MATVEC_MANY_ROWS = 64


@dataclass(frozen=True)
class ValueOperand:
    """A value of the program, from byte `offset` of it on."""

    value: str
    offset: int = 0


@dataclass(frozen=True)
class WeightOperand:
    """Constants that lie side by side."""

    names: tuple[str, ...]


Operand = ValueOperand | WeightOperand


@dataclass(frozen=True)
class Call:
    """A task and what each of its arguments is."""

    task: Task
    operands: tuple[Operand, ...]


class Builder:
    """Collects the operands of one node's task by argument name."""

    def __init__(self, nodes: Nodes, node: Node) -> None:
        self.nodes, self.node = nodes, node

    def type(self, role: str) -> TensorType:
        """Of an input, an output or a weight, of several side by side the first."""
        if role in self.node.weights:
            return self.nodes.constants[self.node.weights[role][0]].type
        return self.nodes.types[self.node.inputs.get(role) or self.node.outputs[role]]

    def format(self, role: str) -> Any:
        """None where the node has no such role."""
        node = self.node
        present = role in node.inputs or role in node.outputs or role in node.weights
        return self.type(role).dtype if present else None

    def formats(self, *roles: str) -> dict[str, Any]:
        """`format` by role."""
        return {role: self.format(role) for role in roles}

    def attr(self, name: str) -> Any:
        """An attr whose type the kernel's task checks; None where the node has none."""
        return self.node.attrs.get(name)

    def matrix(self, role: str) -> tuple[int, int]:
        return self.type(role).matrix

    def shape(self, role: str) -> tuple[int, ...]:
        return self.type(role).shape

    def weight_elements(self, role: str) -> int:
        types = [self.nodes.constants[name].type.matrix for name in self.node.weights[role]]
        return sum(rows * columns for rows, columns in types)

    def call(self, task: Task, **renamed: str) -> Call:
        """The call of a task whose arguments are named like the node's roles, but for the `renamed` ones."""
        operands = tuple(self._operand(argument.name, renamed) for argument in task.arguments)
        return Call(task, operands)

    def _operand(self, argument: str, renamed: dict[str, str]) -> Operand:
        node, role = self.node, renamed.get(argument, argument)
        if role in node.weights:
            return WeightOperand(node.weights[role])
        value = node.inputs.get(role) or node.outputs.get(role)
        if value is None:
            raise ExportError(f"node {node.name}: {node.kind} has no {role!r} for its kernel's argument {argument!r}")
        return ValueOperand(value, node.count(f"{role}.offset", 0))


def make_call(nodes: Nodes, node: Node) -> Call:
    """The task of a node. Raises `ValueError` for what no kernel can do."""
    return _MAKERS[node.kind](Builder(nodes, node))


def fits(nodes: Nodes, node: Node) -> bool:
    """Whether a kernel can do a node: fusions try, and leave the program as it was where none can."""
    try:
        make_call(nodes, node)
    except ValueError:
        return False
    return True


def fit_with(nodes: Nodes, types: Mapping[str, TensorType], *made: Node) -> bool:
    """Whether kernels can do nodes that need these values, and their weights can lie as they read them.

    If so, the values exist and the weights lie so from then on; else all is as before.
    """
    for name, tensor in types.items():
        nodes.new_value(name, tensor)
    weights = [names for node in made for names in node.weights.values()]
    if all(fits(nodes, node) for node in made) and nodes.rows.join(*weights):
        return True
    for name in types:
        del nodes.types[name]
    return False


def fuse(nodes: Nodes, old: Iterable[Node], new: Node) -> bool:
    """Put a node in the place of others, if a kernel can do it. Whether it could."""
    if not fits(nodes, new):
        return False
    nodes.replace(old, new)
    return True


def uses_matvec(nodes: Nodes, node: Node) -> bool:
    """Whether a linear is a matmul of few rows or columns."""
    if node.kind != "linear":
        return False
    rows, columns = nodes.types[node.inputs["x"]].matrix[0], nodes.types[node.outputs["y"]].matrix[1]
    few_columns = columns <= MATVEC_COLUMNS and rows <= MATVEC_MANY_ROWS
    return rows <= MATVEC_ROWS or node.count("batch", 1) > 1 or few_columns


def _linear(b: Builder) -> Call:
    node = b.node
    batch = node.count("batch", 1)
    k = b.shape("weight")[-1]
    n = b.weight_elements("weight") // k // batch
    mode = "quantized" if b.format("x") in EIGHT_BITS else node.text("x_mode", "plain")
    options = b.formats("x", "weight", "y", "residual")
    options |= {"bias": "bias" in node.weights, "activation": node.text("activation", "none")}
    options |= {"x_mode": mode, "eps": node.attrs.get("eps", 0.0)}
    x_elements = b.matrix("x")[0] * b.matrix("x")[1]
    if uses_matvec(b.nodes, node):
        return b.call(matvec.task(n, k, batch=batch, rows=x_elements // k // batch, **options))
    if "x_statistics" in node.inputs:
        options |= {"x_partials": b.shape("x_statistics")[1]}
    return b.call(matmul.task(x_elements // k, n, k, statistics=b.attr("statistics"), **options))


def _grouped_linear(b: Builder) -> Call:
    groups, n, k = b.shape("weight")
    rows = b.shape("x")[0]
    task = matmul.task(
        rows, n, k, **b.formats("x", "weight", "y"), bias="bias" in b.node.weights,
        groups=groups, x_mode="quantized" if b.format("x") in EIGHT_BITS else "plain",
    )  # fmt: skip
    return b.call(task)


def _conv2d(b: Builder) -> Call:
    node = b.node
    height, width, channels = b.shape("x")
    out, kernel_height, kernel_width, _ = b.shape("weight")
    norm: dict[str, Any] = {"norm": "rms", "eps": node.attrs["eps"], "z": b.format("z")} if "z" in node.outputs else {}
    task = conv2d.task(
        height, width, channels, out, kernel=(kernel_height, kernel_width),
        stride=node.count("stride"), padding=b.attr("padding"),
        **b.formats("x", "weight", "y"), bias="bias" in node.weights,
        activation=node.text("activation"), residual=b.format("residual"), statistics=b.attr("statistics"),
        **norm,
    )  # fmt: skip
    return b.call(task)


def _row_norm(b: Builder) -> Call:
    node = b.node
    batch = node.count("batch", 1)
    elements, width = b.matrix("y")[0] * b.matrix("y")[1], node.count("width", 0) or b.matrix("x")[1]
    options: dict[str, Any] = {}
    if "addend" in node.inputs or "addend" in node.weights:
        options = {"addend": node.text("addend_rows"), "addend_dtype": b.format("addend")}
    task = row_norm.task(
        elements // width // batch, width, kind="rms" if node.kind == "rms_norm" else "layer",
        **b.formats("x", "y"), eps=node.number("eps"), weight="weight" in node.weights,
        bias="bias" in node.weights, activation=node.text("activation", "none"), batch=batch, **options,
    )  # fmt: skip
    return b.call(task)


def _quantize_rows(b: Builder) -> Call:
    return b.call(quantize_rows.task(*b.matrix("x"), **b.formats("x", "y")))


def _rms_norm_rope(b: Builder) -> Call:
    rows, columns = b.matrix("x")
    heads = b.node.count("heads")
    task = rms_norm_rope.task(rows, heads, columns // heads, **b.formats("x", "y"), eps=b.node.number("eps"))
    return b.call(task)


def _self_attention(b: Builder) -> Call:
    node = b.node
    tokens, columns = b.matrix("y")
    heads = node.count("heads")
    options: dict[str, Any] = {}
    if "q_statistics" in node.inputs:
        stride = node.count("statistics_row_stride")
        options = {"rope": True, "eps": node.number("eps"), "partials": columns // 64, "statistics_row_stride": stride}
    task = self_attention.task(
        tokens, heads, columns // heads, x=b.format("q"), y=b.format("y"), scale=node.number("scale"),
        row_stride=b.attr("row_stride"), statistics=b.attr("statistics"), **options,
    )  # fmt: skip
    return b.call(task)


def _cross_keys(b: Builder) -> tuple[int, int]:
    """Text and proprio keys."""
    return b.matrix("key_text")[0], b.matrix("key_proprio")[0] if "key_proprio" in b.node.inputs else 0


def _cross_attention(b: Builder) -> Call:
    tokens, columns = b.matrix("q")
    heads = b.node.count("heads")
    task = cross_attention.task(
        tokens, heads, columns // heads, *_cross_keys(b), x=b.format("q"), y=b.format("y"), scale=b.node.number("scale")
    )
    return b.call(task)


def _cross_attention_folded(b: Builder) -> Call:
    node = b.node
    tokens, columns = b.matrix("q")
    heads = node.count("heads")
    options: dict[str, Any] = {}
    if "q_statistics" in node.inputs:
        options = {"rms": True, "eps": node.number("eps"), "partials": b.shape("q_statistics")[1]}
    task = cross_attention_folded.task(
        tokens, heads, columns // heads, b.matrix("y")[1], *_cross_keys(b), x=b.format("q"), y=b.format("y"),
        scale=node.number("scale"), bias="bias" in node.weights, residual=b.format("residual"),
        statistics=b.attr("statistics"), **options,
    )  # fmt: skip
    return b.call(task)


def _pool(b: Builder) -> tuple[int, int, int, int]:
    """Rows of one pooling, width, heads, queries."""
    rows, width = b.matrix("x")
    return rows // b.node.count("batch", 1), width, b.node.count("heads"), b.node.count("queries")


def _learned_query_scores(b: Builder) -> Call:
    eps, batch = b.node.number("eps"), b.node.count("batch", 1)
    return b.call(learned_query_scores.task(*_pool(b), x=b.format("x"), eps=eps, batch=batch))


def _learned_query_sum(b: Builder) -> Call:
    slots, batch = b.shape("merge")[0], b.node.count("batch", 1)
    task = learned_query_sum.task(*_pool(b), slots=slots, x=b.format("x"), y=b.format("y"), batch=batch)
    return b.call(task)


def _mean_pool(b: Builder) -> Call:
    return b.call(mean_pool.task(*b.matrix("x"), x=b.format("x"), y=b.format("y")))


def _add_subtract(b: Builder) -> Call:
    rows, columns = b.matrix("y")
    held = [b.matrix(role)[0] if role in b.node.inputs else b.weight_elements(role) // columns for role in ("a", "b")]
    formats = [b.format("a"), b.format("b")]
    operation: Any = b.node.kind
    task = elementwise.task(operation, rows, [columns, columns], x=formats, y=b.format("y"), source_rows=held)
    return b.call(task, x0="a", x1="b")


def _concat(b: Builder) -> Call:
    roles = [f"x.{index}" for index in range(len(b.node.inputs))]
    columns = [b.matrix(role)[1] for role in roles]
    task = elementwise.task("concat", b.matrix("y")[0], columns, x=[b.format(role) for role in roles], y=b.format("y"))
    return b.call(task, **{f"x{index}": role for index, role in enumerate(roles)})


def _cast(b: Builder) -> Call:
    rows, columns = b.matrix("x")
    return b.call(elementwise.task("concat", rows, [columns], x=[b.format("x")], y=b.format("y")), x0="x")


def _affine(b: Builder) -> Call:
    node = b.node
    steps = node.count("steps")
    bounds: dict[str, Any] = {
        bound: [node.attrs[f"{bound}{index}"] for index in range(steps)] for bound in ("minimum", "maximum")
    }
    task = affine.task(
        *b.matrix("x"), x=b.format("x"), y=b.format("y"), steps=steps, gripper_column=b.attr("column"), **bounds
    )
    return b.call(task)


def _nchw_to_nhwc(b: Builder) -> Call:
    return b.call(nchw_to_nhwc.task(*b.shape("x"), **b.formats("x", "y")))


def _text_key_bias(b: Builder) -> Call:
    return b.call(text_key_bias.task(b.shape("key_bias")[0]))


def _preprocess_images(b: Builder) -> Call:
    height, width, _ = b.shape("y")
    cameras = []
    for camera in b.nodes.policy["cameras"]:
        top, left, rows, columns = camera["rect"]
        cameras.append(preprocess_images.Camera(top, left, rows, columns, camera["rotate_180"]))
    return b.call(preprocess_images.task(cameras, (height, width), y=b.format("y")))


_MAKERS: dict[str, Callable[[Builder], Call]] = {
    "linear": _linear,
    "grouped_linear": _grouped_linear,
    "conv2d": _conv2d,
    "layer_norm": _row_norm,
    "rms_norm": _row_norm,
    "quantize_rows": _quantize_rows,
    "rms_norm_rope": _rms_norm_rope,
    "self_attention": _self_attention,
    "cross_attention": _cross_attention,
    "cross_attention_folded": _cross_attention_folded,
    "learned_query_scores": _learned_query_scores,
    "learned_query_sum": _learned_query_sum,
    "mean_pool": _mean_pool,
    "add": _add_subtract,
    "subtract": _add_subtract,
    "concat": _concat,
    "cast": _cast,
    "affine": _affine,
    "nchw_to_nhwc": _nchw_to_nhwc,
    "text_key_bias": _text_key_bias,
    "preprocess_images": _preprocess_images,
}
