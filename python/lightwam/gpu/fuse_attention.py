# SPDX-License-Identifier: Apache-2.0
"""Fusions around attention: one matmul for q, k and v; norms and rotation of q and k on load."""

from __future__ import annotations

from lightwam.engine.dtypes import ITEM_SIZE
from lightwam.engine.graph import TensorType
from lightwam.gpu.nodes import ADDRESS_ALIGNMENT, Node, Nodes
from lightwam.gpu.statistics import STATISTICS_WIDTH, with_statistics
from lightwam.gpu.tasks import fit_with


def qkv_in_one_matmul(nodes: Nodes) -> None:
    """q, k and v of one x are one matmul on weights that lie side by side; attention reads them with a row stride.

    RMS norm and rotation of q and k happen on load, from partial squares that the matmul writes.
    """
    for attention in nodes.of_kind("self_attention"):
        writers = [nodes.writer(attention.inputs[role]) for role in ("q", "k")]
        ropes = [writer for writer in writers if writer is not None and writer.kind == "rms_norm_rope"]
        ropes = ropes if len(ropes) == 2 else []
        if _ropes_agree(nodes, attention, ropes):
            _fuse_qkv(nodes, attention, ropes)


def _ropes_agree(nodes: Nodes, attention: Node, ropes: list[Node]) -> bool:
    """Whether the rotations may happen in the attention: none but it reads them, and they are alike."""
    alone = all(nodes.only_reader(rope.outputs["y"]) is attention for rope in ropes)
    tables = {(rope.weights["cos"], rope.weights["sin"], rope.attrs["eps"], rope.attrs["heads"]) for rope in ropes}
    return alone and len(tables) <= 1 and all(rope.attrs["heads"] == attention.attrs["heads"] for rope in ropes)


def _fuse_qkv(nodes: Nodes, attention: Node, ropes: list[Node]) -> None:
    sources = [rope.inputs["x"] for rope in ropes] or [attention.inputs["q"], attention.inputs["k"]]
    values = [*sources, attention.inputs["v"]]
    linears = [linear for value in values if (linear := nodes.writer(value)) is not None]
    if len(linears) < 3 or len({id(linear) for linear in linears}) < 3 or not _alike(nodes, linears, values):
        return
    rows, columns = nodes.types[values[0]].matrix
    dtype = nodes.types[values[0]].dtype
    step = columns * ITEM_SIZE[dtype]
    if step % ADDRESS_ALIGNMENT or any(nodes.types[value].matrix != (rows, columns) for value in values):
        return
    whole = f"{attention.name}.qkv"
    matmul, fused = nodes.edited(linears[0]), nodes.edited(attention)
    matmul.name, matmul.outputs = whole, {"y": whole}
    matmul.weights = {role: tuple(one.weights[role][0] for one in linears) for role in linears[0].weights}
    fused.inputs = {"q": whole, "k": whole, "v": whole}
    fused.attrs |= {"row_stride": 3 * columns, "k.offset": step, "v.offset": 2 * step}
    types = {whole: TensorType(dtype, (rows, 3 * columns))}
    if ropes:
        if columns % (2 * STATISTICS_WIDTH):  # the squares of k begin at an aligned address
            return
        _rotate_on_load(fused, matmul, ropes, columns)
        types[matmul.outputs["statistics"]] = TensorType("f32", (rows, 3 * columns // STATISTICS_WIDTH, 2))
    if fit_with(nodes, types, matmul, fused):
        nodes.replace([*linears, attention, *ropes], matmul, fused)


def _alike(nodes: Nodes, linears: list[Node], values: list[str]) -> bool:
    """Whether linears read one x in one way, and each result is read once."""
    first = linears[0]
    same = all(
        one.kind == "linear"
        and one.inputs == first.inputs
        and one.attrs == first.attrs
        and one.weights.keys() == first.weights.keys()
        and "residual" not in one.inputs
        for one in linears
    )
    dtypes = {nodes.types[value].dtype for value in values}
    return same and len(dtypes) == 1 and all(nodes.only_reader(value) is not None for value in values)


def _rotate_on_load(attention: Node, matmul: Node, ropes: list[Node], columns: int) -> None:
    statistics = f"{matmul.name}.statistics"
    matmul.attrs["statistics"] = "squares"
    matmul.outputs["statistics"] = statistics
    q, k = ropes
    attention.inputs |= {"q_statistics": statistics, "k_statistics": statistics}
    attention.weights |= {
        "q_weight": q.weights["weight"], "k_weight": k.weights["weight"], "cos": q.weights["cos"],
        "sin": q.weights["sin"],
    }  # fmt: skip
    partials = columns // STATISTICS_WIDTH
    attention.attrs |= {
        "eps": q.attrs["eps"], "k_statistics.offset": partials * 8, "statistics_row_stride": 6 * partials,
    }  # fmt: skip


def query_norm_in_cross_attention(nodes: Nodes) -> None:
    """The RMS norm of a cross-attention's query happens on load, from squares that the query's matmul writes."""
    for attention in nodes.of_kind("cross_attention_folded"):
        norm = nodes.writer(attention.inputs["q"])
        plain = norm is not None and norm.kind == "rms_norm" and norm.attrs["activation"] == "none"
        if norm is None or not plain or nodes.only_reader(norm.outputs["y"]) is not attention:
            continue
        fused = nodes.edited(attention)
        fused.inputs["q"] = norm.inputs["x"]
        fused.weights["q_weight"] = norm.weights["weight"]
        fused.attrs["eps"] = norm.attrs["eps"]
        with_statistics(nodes, norm.inputs["x"], "squares", fused, "q_statistics", [attention, norm])
