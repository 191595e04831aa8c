# SPDX-License-Identifier: Apache-2.0
"""Every op of the table as a launch plan of its own, against the interpreter of graphs."""

from __future__ import annotations

import pytest

from helpers.gpu_graphs import Sample, deviation
from helpers.op_cases import FP8_CASES, INT8_CASES, OP_CASES, OpCase, case_state, one_op_graph
from lightwam.gpu.lower import FUSIONS, lower
from lightwam.gpu.verify import verify_plan


@pytest.mark.parametrize("case", (*OP_CASES, *INT8_CASES, *FP8_CASES), ids=str)
def test_an_op_as_a_plan(case: OpCase) -> None:
    """Alone, and fused with what makes its operands; by the kernels' references, which have tests of their own."""
    graph = one_op_graph(case)
    sample = Sample(graph, graph.constants["context"].array(), case_state(), None, None)
    wanted = sample.interpreted()
    for fusions in ((), FUSIONS):
        plan = lower(graph, fusions)
        verify_plan(plan, graph)
        assert deviation(sample.planned(plan, "reference"), wanted) <= case.tolerance()
