# SPDX-License-Identifier: Apache-2.0
"""Row statistics: a producer that writes partial sums of what it stores, for a consumer that then needs no own pass."""

from __future__ import annotations

from lightwam.engine.graph import TensorType
from lightwam.gpu.nodes import Node, Nodes
from lightwam.gpu.tasks import fit_with, fuse, uses_matvec

#: Columns of one partial (docs/reference/launch-plan.md, "Row statistics").
STATISTICS_WIDTH = 64
_PRODUCERS = ("linear", "self_attention", "cross_attention_folded", "conv2d")


def with_statistics(nodes: Nodes, x: str, kind: str, consumer: Node, role: str, replaced: list[Node]) -> bool:
    """Put `consumer` in the place of `replaced`, reading statistics of `x` as `role`; False if it can't.

    The writer of `x` is made to write them, unless it writes others already or no kernel of its can.
    """
    writer = nodes.writer(x)
    if writer is None or writer.kind not in _PRODUCERS or uses_matvec(nodes, writer):
        return False
    if writer.attrs.get("statistics") == kind:
        consumer.inputs[role] = writer.outputs["statistics"]
        return fuse(nodes, replaced, consumer)
    if "statistics" in writer.attrs or writer in replaced:
        return False
    rows, columns = nodes.types[x].matrix
    statistics = f"{x}.{kind}"
    producer = nodes.edited(writer)
    producer.attrs["statistics"] = kind
    producer.outputs["statistics"] = statistics
    consumer.inputs[role] = statistics
    types = {statistics: TensorType("f32", (rows, -(-columns // STATISTICS_WIDTH), 2))}
    if not fit_with(nodes, types, producer, consumer):
        return False
    nodes.replace([writer, *replaced], producer, consumer)
    return True
