# SPDX-License-Identifier: Apache-2.0
"""Fusions of small work: matmuls of one row that share it, and like steps on rows that lie one after the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

from lightwam.engine.dtypes import ITEM_SIZE
from lightwam.engine.graph import TensorType
from lightwam.gpu.nodes import ADDRESS_ALIGNMENT, Node, Nodes
from lightwam.gpu.simplify import pool_steps
from lightwam.gpu.tasks import fit_with

T = TypeVar("T")
_BATCHED = ("linear", "layer_norm", "rms_norm")


def _grouped(items: Iterable[T], key: Callable[[T], Hashable | None]) -> list[list[T]]:
    """Items with equal keys together, groups and items in order; those whose key is None are left out."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        if (of := key(item)) is not None:
            groups.setdefault(of, []).append(item)
    return list(groups.values())


def matmuls_of_one_row(nodes: Nodes) -> None:
    """Matmuls that read the same single row are one matmul on weights that lie side by side.

    Results that are used alike come next to each other, so that their users can become a batch.
    """
    for members in _grouped(nodes.of_kind("linear"), lambda node: _matmul_key(nodes, node)):
        members.sort(key=lambda node: (sorted(r.kind for r in nodes.readers(node.outputs["y"])), node.order))
        _merge_matmuls(nodes, members)


def _matmul_key(nodes: Nodes, node: Node) -> Hashable | None:
    """What matmuls that become one have in common; None for one that cannot."""
    if "residual" in node.inputs or "batch" in node.attrs or nodes.types[node.inputs["x"]].matrix[0] != 1:
        return None
    inputs = tuple(sorted(node.inputs.items()))
    weights = tuple((role, nodes.constants[names[0]].type.dtype) for role, names in sorted(node.weights.items()))
    y = nodes.types[node.outputs["y"]]
    return inputs, weights, tuple(sorted(node.attrs.items(), key=str)), y.dtype


def _merge_matmuls(nodes: Nodes, members: list[Node]) -> None:
    results = [node.outputs["y"] for node in members]
    dtype = nodes.types[results[0]].dtype
    widths = [nodes.types[value].matrix[1] for value in results]
    aligned = all(width * ITEM_SIZE[dtype] % ADDRESS_ALIGNMENT == 0 for width in widths)
    free = all(value not in nodes.pinned and nodes.place(value).base == value for value in results)
    if len(members) < 2 or not aligned or not free:
        return
    merged = nodes.edited(members[0])
    merged.name = f"{members[0].name}..{members[-1].name}"
    merged.weights = {role: tuple(node.weights[role][0] for node in members) for role in merged.weights}
    merged.outputs = {"y": merged.name}
    if not fit_with(nodes, {merged.name: TensorType(dtype, (1, sum(widths)))}, merged):
        return
    offset = 0
    for value, width in zip(results, widths, strict=True):
        nodes.put(value, merged.name, offset)
        offset += width * ITEM_SIZE[dtype]
    nodes.replace(members, merged)


def single_rows_side_by_side(nodes: Nodes) -> None:
    """Rows side by side need no copy: a concatenation of single rows is the place where their writers write."""
    for node in nodes.of_kind("concat"):
        y = node.outputs["y"]
        sources = [node.inputs[f"x.{index}"] for index in range(len(node.inputs))]
        one_row = nodes.types[y].matrix[0] == 1 and y not in nodes.pinned
        one_format = {nodes.types[x].dtype for x in sources} == {nodes.types[y].dtype}
        if one_row and one_format and nodes.side_by_side(sources, f"{y}.bytes"):
            place = nodes.place(sources[0])
            nodes.replace([node])
            nodes.put(y, place.base, place.offset)


def pools_in_batches(nodes: Nodes) -> None:
    """Like poolings of different tokens are one batch: their tokens, and their results, lie one after the other."""
    pools = []
    for scores in nodes.of_kind("learned_query_scores"):
        total = nodes.only_reader(scores.outputs["logits"])
        if total is not None and "batch" not in scores.attrs:
            pools.append((scores, total))
    for members in _grouped(pools, lambda pool: _pool_key(nodes, *pool)):
        if len(members) > 1:
            _merge_pools(nodes, members)


def _pool_key(nodes: Nodes, scores: Node, total: Node) -> Hashable:
    types = (nodes.types[scores.inputs["x"]], nodes.types[total.outputs["y"]])
    weights = (scores.weights["scores"][0], total.weights["merge"][0])
    return (*types, *(nodes.constants[name].type for name in weights), tuple(sorted(scores.attrs.items())))


def _merge_pools(nodes: Nodes, members: list[tuple[Node, Node]]) -> None:
    scores, totals = ([pair[step] for pair in members] for step in (0, 1))
    count, name = len(members), f"{totals[0].name}..{totals[-1].name}"
    weights = [tuple(node.weights[role][0] for node in step) for step, role in ((scores, "scores"), (totals, "merge"))]
    sources, results = [node.inputs["x"] for node in scores], [node.outputs["y"] for node in totals]
    if any(value in nodes.pinned for value in results) or not nodes.rows.join(*weights):
        return

    def batched(value: str) -> TensorType:
        tensor = nodes.types[value]
        return TensorType(tensor.dtype, (count * tensor.shape[0], *tensor.shape[1:]))

    x = nodes.row_of(sources, f"{name}.x", batched(sources[0]))
    y = nodes.row_of(results, name, batched(results[0])) if x is not None else None
    if x is None or y is None:
        return
    order, attrs = max(node.order for node in totals), {**scores[0].attrs, "batch": count}
    roles = {"scores": weights[0], "merge": weights[1]}
    pool = Node("learned_query_pool", name, totals[0].stage, {"x": x}, roles, {"y": y}, attrs, order)
    nodes.replace([*scores, *totals], *pool_steps(nodes, pool))


def like_rows_in_batches(nodes: Nodes) -> None:
    """Like steps on single rows that lie one after the other are one launch. A batch makes its results consecutive."""
    count = len(nodes.nodes) + 1
    while len(nodes.nodes) < count:
        count = len(nodes.nodes)
        for members in _grouped(nodes.of_kind(*_BATCHED), lambda node: _batch_key(nodes, node)):
            for run in _runs(nodes, members):
                _merge_batch(nodes, run)


def _batch_key(nodes: Nodes, node: Node) -> Hashable | None:
    """What steps of one batch have in common; None for a step that is not on single rows, or has more operands."""
    if set(node.inputs) != {"x"} or set(node.outputs) != {"y"}:
        return None
    x, y = nodes.types[node.inputs["x"]], nodes.types[node.outputs["y"]]
    width = nodes.constants[node.weights["weight"][0]].type.shape[-1] if "weight" in node.weights else x.matrix[1]
    elements = x.matrix[0] * x.matrix[1]
    if elements != width * node.count("batch", 1):
        return None
    attrs = tuple(sorted((name, attr) for name, attr in node.attrs.items() if name != "batch"))
    weights = tuple((role, nodes.constants[names[0]].type) for role, names in sorted(node.weights.items()))
    one = all(len(names) == 1 or node.count("batch", 1) > 1 for names in node.weights.values())
    return (node.kind, x, y, attrs, weights, node.stage) if one else None


def _runs(nodes: Nodes, members: list[Node]) -> Iterator[list[Node]]:
    """The longest lists of steps whose rows follow each other."""

    def at(node: Node) -> tuple[str, int]:
        place = nodes.place(node.inputs["x"])
        return place.base, place.offset

    run: list[Node] = []
    for node in sorted(members, key=at):
        if run and not nodes.consecutive([run[-1].inputs["x"], node.inputs["x"]]):
            yield run
            run = []
        run.append(node)
    yield run


def _merge_batch(nodes: Nodes, members: list[Node]) -> None:
    first, batch = members[0], sum(node.count("batch", 1) for node in members)
    results = [node.outputs["y"] for node in members]
    if len(members) < 2 or any(value in nodes.pinned for value in results):
        return
    x, y = nodes.types[first.inputs["x"]], nodes.types[results[0]]
    merged = nodes.edited(first)
    merged.name = f"{first.name}..{members[-1].name}"
    merged.attrs["batch"] = batch
    merged.order = max(node.order for node in members)
    merged.weights = {role: tuple(name for node in members for name in node.weights[role]) for role in first.weights}
    merged.inputs, merged.outputs = {"x": f"{merged.name}.x"}, {"y": merged.name}
    width = x.matrix[0] * x.matrix[1] * len(members) // batch
    types = {
        merged.inputs["x"]: TensorType(x.dtype, (batch, width)),
        merged.name: TensorType(y.dtype, (batch, y.matrix[0] * y.matrix[1] * len(members) // batch)),
    }
    if not fit_with(nodes, types, merged):
        return
    rows = {merged.name: results, merged.inputs["x"]: [node.inputs["x"] for node in members]}
    for name in types:  # each becomes the row of what it stands for
        del nodes.types[name]
    if all(nodes.row_of(values, name, types[name]) for name, values in rows.items()):
        nodes.replace(members, merged)
