# SPDX-License-Identifier: Apache-2.0
"""Every op of the table as a launch plan of its own, against the interpreter of graphs."""

from __future__ import annotations

import pytest

from helpers.gpu_graphs import Sample, deviation
from helpers.one_op import case_state, one_op_graph
from helpers.op_cases import FP8_CASES, INT8_CASES, OP_CASES, OpCase


@pytest.mark.parametrize("case", (*OP_CASES, *INT8_CASES, *FP8_CASES), ids=str)
def test_an_op_as_a_plan(case: OpCase) -> None:
    """Alone, and fused with what makes its operands; by the kernels' references, which have tests of their own."""
    graph = one_op_graph(case)
    sample = Sample(graph, graph.constants["context"].array(), case_state(), None, None)
    for plan in (sample.plain_plan, sample.plan):
        assert deviation(sample.planned(plan, "reference"), sample.chunk) <= case.tolerance()
