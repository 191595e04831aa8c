# SPDX-License-Identifier: Apache-2.0
"""Fusions of row-wise steps (norms, 8-bit rounding, addition) with what comes after them, or before."""

from __future__ import annotations

from lightwam.engine.dtypes import EIGHT_BITS
from lightwam.gpu.nodes import Node, Nodes
from lightwam.gpu.statistics import with_statistics
from lightwam.gpu.tasks import fuse, uses_matvec

#: A matmul of more columns normalises its rows too often (once a tile of columns): they get a pass of their own.
LAYER_NORM_COLUMNS = 1536


def addition_in_norm(nodes: Nodes) -> None:
    """x + addend is normalised without being stored, where only the norm reads it."""
    for add in nodes.of_kind("add"):
        norm = nodes.only_reader(add.outputs["y"])
        if norm is None or norm.kind != "layer_norm" or norm.inputs["x"] != add.outputs["y"]:
            continue
        fused = nodes.edited(norm)
        del fused.inputs["x"]
        for role, operand in (("x", "a"), ("addend", "b")):
            if operand in add.inputs:
                fused.inputs[role] = add.inputs[operand]
            else:
                fused.weights[role] = add.weights[operand]
        rows, width = nodes.types[add.outputs["y"]].matrix
        b = add.inputs.get("b")
        b_rows = nodes.types[b].matrix[0] if b is not None else nodes.constants[add.weights["b"][0]].type.matrix[0]
        fused.attrs |= {"width": width, "addend_rows": "full" if b_rows == rows else "row"}
        fuse(nodes, [add, norm], fused)


def layer_norm_in_matvec(nodes: Nodes) -> None:
    """A matmul of few rows computes the moments of its rows itself."""
    for norm in nodes.of_kind("layer_norm"):
        linear = _reader_of_plain_norm(nodes, norm)
        if linear is not None and uses_matvec(nodes, linear) and linear.text("x_mode", "plain") == "plain":
            fuse(nodes, [norm, linear], _on_source(nodes, norm, linear, "layer_norm"))


def rounding_in_matvec(nodes: Nodes) -> None:
    """A matmul of few rows computes their 8-bit scales itself, of a layer norm's result too."""
    for rounding in nodes.of_kind("quantize_rows"):
        linear = _linear_reader(nodes, rounding)
        if linear is None or not uses_matvec(nodes, linear):
            continue
        fused = _on_source(nodes, rounding, linear, "quantize")
        norm = nodes.writer(fused.inputs["x"])
        if not fuse(nodes, [rounding, linear], fused) or norm is None or norm.kind != "layer_norm":
            continue
        if _reader_of_plain_norm(nodes, norm) is fused:
            fuse(nodes, [norm, fused], _on_source(nodes, norm, fused, "layer_norm_quantize"))


def norm_with_rounding(nodes: Nodes) -> None:
    """A norm whose result is only rounded to 8 bits writes the 8-bit rows itself."""
    for rounding in nodes.of_kind("quantize_rows"):
        norm = nodes.writer(rounding.inputs["x"])
        alone = nodes.only_reader(rounding.inputs["x"]) is rounding
        if norm is None or norm.kind not in ("layer_norm", "rms_norm") or not alone or "scale" in norm.outputs:
            continue
        fused = nodes.edited(norm)
        fused.outputs = dict(rounding.outputs)
        fuse(nodes, [norm, rounding], fused)


def rounding_on_load(nodes: Nodes) -> None:
    """A matmul rounds its rows to 8 bits on load, from the ranges that the writer of the rows leaves behind."""
    for rounding in nodes.of_kind("quantize_rows"):
        linear = _linear_reader(nodes, rounding)
        if linear is not None and not uses_matvec(nodes, linear):
            fused = _on_source(nodes, rounding, linear, "quantize")
            with_statistics(nodes, rounding.inputs["x"], "range", fused, "x_statistics", [rounding, linear])


def layer_norm_on_load(nodes: Nodes) -> None:
    """A matmul of not too many columns normalises its rows on load, from moments that their writer leaves behind."""
    for norm in nodes.of_kind("layer_norm"):
        linear = _reader_of_plain_norm(nodes, norm)
        if linear is None or uses_matvec(nodes, linear) or nodes.types[linear.inputs["x"]].dtype in EIGHT_BITS:
            continue
        if nodes.types[linear.outputs["y"]].matrix[1] <= LAYER_NORM_COLUMNS:
            fused = _on_source(nodes, norm, linear, "layer_norm")
            with_statistics(nodes, norm.inputs["x"], "moments", fused, "x_statistics", [norm, linear])


def norm_in_convolution(nodes: Nodes) -> None:
    """A convolution of few channels writes its result normed and activated; its plain result too if others read it."""
    for norm in nodes.of_kind("rms_norm"):
        conv = nodes.writer(norm.inputs["x"])
        if conv is None or conv.kind != "conv2d" or norm.attrs["activation"] != "silu" or "z" in conv.outputs:
            continue
        fused = nodes.edited(conv)
        fused.outputs["z"] = norm.outputs["y"]
        fused.weights["norm_weight"] = norm.weights["weight"]
        fused.attrs["eps"] = norm.attrs["eps"]
        if nodes.only_reader(norm.inputs["x"]) is norm:
            del fused.outputs["y"]
        fuse(nodes, [conv, norm], fused)


def affine_chain(nodes: Nodes) -> None:
    """Scalings in a row, and the gripper rule after them, are steps of one launch."""
    for second in nodes.of_kind("affine"):
        first = nodes.writer(second.inputs["x"])
        alone = nodes.only_reader(second.inputs["x"]) is second
        if first is None or first.kind != "affine" or not alone or "column" in first.attrs:
            continue
        steps = first.count("steps")
        fused = nodes.edited(first)
        fused.name, fused.outputs = second.name, dict(second.outputs)
        for index in range(second.count("steps")):
            for role in ("scale", "shift"):
                fused.weights[f"{role}{steps + index}"] = second.weights[f"{role}{index}"]
            for attr in ("minimum", "maximum"):
                fused.attrs[f"{attr}{steps + index}"] = second.attrs[f"{attr}{index}"]
        fused.attrs["steps"] = steps + second.count("steps")
        if "column" in second.attrs:
            fused.attrs["column"] = second.attrs["column"]
        fuse(nodes, [first, second], fused)


def _linear_reader(nodes: Nodes, source: Node) -> Node | None:
    """The linear that alone reads a node's result, as its rows and as nothing else; None if there is none."""
    result = source.outputs["y"]
    linear = nodes.only_reader(result)
    if linear is None or linear.kind != "linear":
        return None
    return linear if [role for role, value in linear.inputs.items() if nodes.same(value, result)] == ["x"] else None


def _reader_of_plain_norm(nodes: Nodes, norm: Node) -> Node | None:
    """The same of a layer norm without weights, rounding or addition."""
    plain = not norm.weights and set(norm.inputs) == {"x"} and set(norm.outputs) == {"y"}
    return _linear_reader(nodes, norm) if plain else None


def _on_source(nodes: Nodes, source: Node, linear: Node, mode: str) -> Node:
    """The linear on what a norm or a rounding reads, whose work it then does itself: `mode` says which."""
    fused = nodes.edited(linear)
    fused.inputs["x"] = source.inputs["x"]
    for role in ("x_scale", "x_zero"):
        fused.inputs.pop(role, None)
    fused.attrs["x_mode"] = mode
    if "eps" in source.attrs:
        fused.attrs["eps"] = source.attrs["eps"]
    return fused
