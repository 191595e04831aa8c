# SPDX-License-Identifier: Apache-2.0
"""Every op of the table as a launch plan of its own, against the interpreter of graphs."""

from __future__ import annotations

import pytest

from helpers.gpu_graphs import Sample, deviation
from helpers.one_op import case_state, one_op_graph
from helpers.op_cases import FP8_CASES, INT8_CASES, OP_CASES, WITHOUT_GPU, OpCase
from lightwam.errors import ExportError
from lightwam.gpu import tasks
from lightwam.gpu.lower import lower

CASES = [case for case in (*OP_CASES, *INT8_CASES, *FP8_CASES) if case.op not in WITHOUT_GPU]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_op_as_a_plan(case: OpCase) -> None:
    """Alone, and fused with what makes its operands; by the kernels' references, which have tests of their own."""
    graph = one_op_graph(case)
    sample = Sample(graph, graph.constants["context"].array(), case_state(), None, None)
    for plan in (sample.plain_plan, sample.plan):
        assert deviation(sample.planned(plan, "reference"), sample.chunk) <= case.tolerance()


def test_an_op_without_a_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(tasks._MAKERS, "add")
    with pytest.raises(ExportError, match=r"op y: no kernel computes it \(add has no kernel\)"):
        lower(one_op_graph(next(case for case in OP_CASES if case.op == "add")))
