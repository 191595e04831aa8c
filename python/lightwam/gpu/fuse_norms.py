# SPDX-License-Identifier: Apache-2.0
"""Fusions of row-wise steps (norms, 8-bit rounding, addition) with what comes after them, or before."""

from __future__ import annotations

from lightwam.engine.dtypes import EIGHT_BITS
from lightwam.engine.graph import Attr
from lightwam.gpu.nodes import Node, Nodes
from lightwam.gpu.statistics import with_statistics
from lightwam.gpu.tasks import fits, uses_matvec

#: A product of more columns normalises its rows too often (once a tile of columns): they get a pass of their own.
LAYER_NORM_COLUMNS = 1536


def addition_in_norm(nodes: Nodes) -> None:
    """x + addend is normalised without being stored, where only the norm reads it."""
    for add in list(nodes.of_kind("add")):
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
        if fits(nodes, fused):
            nodes.replace([add, norm], fused)


def layer_norm_in_matvec(nodes: Nodes) -> None:
    """A product of few rows computes the moments of its rows itself."""
    for norm in list(nodes.of_kind("layer_norm")):
        linear = _plain_norm_reader(nodes, norm)
        if linear is None or not uses_matvec(nodes, linear) or linear.text("x_mode", "plain") != "plain":
            continue
        _read_source(nodes, norm, linear, {"x_mode": "layer_norm", "eps": norm.attrs["eps"]})


def rounding_in_matvec(nodes: Nodes) -> None:
    """A product of few rows computes their 8-bit scales itself, of a layer norm's result too."""
    for rounding in list(nodes.of_kind("quantize_rows")):
        linear = _rounded_reader(nodes, rounding)
        if linear is None or not uses_matvec(nodes, linear):
            continue
        fused = _without_rounding(nodes, rounding, linear)
        fused.attrs["x_mode"] = "quantize"
        if fits(nodes, fused):
            nodes.replace([rounding, linear], fused)
        norm = nodes.writer(fused.inputs["x"])
        if norm is not None and norm.kind == "layer_norm" and _plain_norm_reader(nodes, norm) is fused:
            _read_source(nodes, norm, fused, {"x_mode": "layer_norm_quantize", "eps": norm.attrs["eps"]})


def norm_with_rounding(nodes: Nodes) -> None:
    """A norm whose result is only rounded to 8 bits writes the 8-bit rows itself."""
    for rounding in list(nodes.of_kind("quantize_rows")):
        norm = nodes.writer(rounding.inputs["x"])
        alone = nodes.only_reader(rounding.inputs["x"]) is rounding
        if norm is None or norm.kind not in ("layer_norm", "rms_norm") or not alone or "scale" in norm.outputs:
            continue
        fused = nodes.edited(norm)
        fused.outputs = dict(rounding.outputs)
        if fits(nodes, fused):
            nodes.replace([norm, rounding], fused)


def rounding_on_load(nodes: Nodes) -> None:
    """A product rounds its rows to 8 bits on load, from the ranges that the writer of the rows leaves behind."""
    for rounding in list(nodes.of_kind("quantize_rows")):
        linear = _rounded_reader(nodes, rounding)
        if linear is not None and not uses_matvec(nodes, linear):
            fused = _without_rounding(nodes, rounding, linear)
            fused.attrs["x_mode"] = "quantize"
            with_statistics(nodes, rounding.inputs["x"], "range", fused, "x_statistics", [rounding, linear])


def layer_norm_on_load(nodes: Nodes) -> None:
    """A product of not too many columns normalises its rows on load, from moments that their writer leaves behind."""
    for norm in list(nodes.of_kind("layer_norm")):
        linear = _plain_norm_reader(nodes, norm)
        if linear is None or uses_matvec(nodes, linear) or nodes.types[linear.inputs["x"]].dtype in EIGHT_BITS:
            continue
        if nodes.types[linear.outputs["y"]].matrix[1] <= LAYER_NORM_COLUMNS:
            fused = nodes.edited(linear)
            fused.inputs["x"] = norm.inputs["x"]
            fused.attrs |= {"x_mode": "layer_norm", "eps": norm.attrs["eps"]}
            with_statistics(nodes, norm.inputs["x"], "moments", fused, "x_statistics", [norm, linear])


def norm_in_convolution(nodes: Nodes) -> None:
    """A convolution of few channels writes its result normed and activated; its plain result too if others read it."""
    for norm in list(nodes.of_kind("rms_norm")):
        conv = nodes.writer(norm.inputs["x"])
        if conv is None or conv.kind != "conv2d" or norm.attrs["activation"] != "silu" or "z" in conv.outputs:
            continue
        fused = nodes.edited(conv)
        fused.outputs["z"] = norm.outputs["y"]
        fused.weights["norm_weight"] = norm.weights["weight"]
        fused.attrs["eps"] = norm.attrs["eps"]
        if nodes.only_reader(norm.inputs["x"]) is norm:
            del fused.outputs["y"]
        if fits(nodes, fused):
            nodes.replace([conv, norm], fused)


def affine_chain(nodes: Nodes) -> None:
    """Scalings in a row, and the gripper rule after them, are steps of one launch."""
    for second in list(nodes.of_kind("affine")):
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
        if fits(nodes, fused):
            nodes.replace([first, second], fused)


def _plain_norm_reader(nodes: Nodes, norm: Node) -> Node | None:
    """The linear that alone reads a layer norm without weights, rounding or addition; None if there is none."""
    if norm.weights or set(norm.inputs) != {"x"} or set(norm.outputs) != {"y"}:
        return None
    linear = nodes.only_reader(norm.outputs["y"])
    reads_it = linear is not None and linear.kind == "linear" and nodes.same(linear.inputs["x"], norm.outputs["y"])
    other = linear is not None and any(
        nodes.same(value, norm.outputs["y"]) for role, value in linear.inputs.items() if role != "x"
    )
    return linear if reads_it and not other else None


def _rounded_reader(nodes: Nodes, rounding: Node) -> Node | None:
    """The linear that alone reads 8-bit rows."""
    linear = nodes.only_reader(rounding.outputs["y"])
    reads_it = linear is not None and linear.kind == "linear" and nodes.same(linear.inputs["x"], rounding.outputs["y"])
    return linear if reads_it else None


def _without_rounding(nodes: Nodes, rounding: Node, linear: Node) -> Node:
    """The linear on the rows before they are rounded."""
    fused = nodes.edited(linear)
    fused.inputs["x"] = rounding.inputs["x"]
    for role in ("x_scale", "x_zero"):
        fused.inputs.pop(role, None)
    return fused


def _read_source(nodes: Nodes, norm: Node, linear: Node, attrs: dict[str, Attr]) -> None:
    """Let a linear read a norm's input, if its kernel can."""
    fused = nodes.edited(linear)
    fused.inputs["x"] = norm.inputs["x"]
    fused.attrs |= attrs
    if fits(nodes, fused):
        nodes.replace([norm, linear], fused)
