# SPDX-License-Identifier: Apache-2.0
"""The memory plan: live values never share bytes, whatever the program."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightwam.config import LightWAMConfig
from lightwam.engine.builder import ProgramBuilder
from lightwam.engine.graph import Graph, Program, Value
from lightwam.engine.memory_plan import plan_graph
from lightwam.engine.verify import check_graph
from lightwam.errors import ExportError
from lightwam.export.layers import constant
from lightwam.export.options import ExportOptions
from lightwam.export.policy_graph import build_graph
from lightwam.export.weights import StateDictWeights


def _graph(program: Program, constants: dict) -> Graph:  # type: ignore[type-arg]
    empty = Program({}, (), {})
    return plan_graph(Graph("test", "f32", {}, {"set_instruction": empty, "act": program}, constants))


@st.composite
def programs(draw: st.DrawFn) -> Graph:
    """Random chains and branches of in-place ops, reshapes, matmuls and residuals."""
    import torch

    constants: dict = {}  # type: ignore[type-arg]
    builder = ProgramBuilder(constants, "expert")
    state = builder.bind("state", "f32", (1, 8))
    weight = constant("w", "f32", (8, 8), lambda: torch.zeros(8, 8))
    values = [builder.emit("linear", "v", {"x": state}, {"weight": weight}, activation="none")]
    for index in range(draw(st.integers(1, 25))):
        name = f"op{index}"
        x = values[draw(st.integers(0, len(values) - 1))]
        y = values[draw(st.integers(0, len(values) - 1))]
        kind = draw(st.sampled_from(["norm", "reshape", "residual", "add", "same", "cast", "concat"]))
        values.append(_random_op(builder, kind, name, x, y, weight, draw))
    outputs = {f"o{i}": values[draw(st.integers(0, len(values) - 1))] for i in range(draw(st.integers(1, 3)))}
    return _graph(builder.finish(outputs), constants)


def _random_op(builder: ProgramBuilder, kind: str, name: str, x: Value, y: Value, weight, draw: st.DrawFn) -> Value:  # type: ignore[no-untyped-def]
    alike = x.type.shape == y.type.shape
    if kind == "reshape":
        rows, columns = x.type.matrix
        return builder.emit("reshape", name, {"x": x}, {}, x.type.dtype, (1, rows, columns))
    if kind == "residual" and alike and x.type.matrix[1] == 8 and x.type.dtype == "f32":
        return builder.emit(
            "linear", name, {"x": x, "residual": y}, {"weight": weight}, draw(st.sampled_from(["f32", "bf16"])),
            activation="none",
        )  # fmt: skip
    if kind == "add" and alike:
        return builder.emit("add", name, {"a": x, "b": y}, {}, x.type.dtype)
    if kind == "same":
        return builder.emit("add", name, {"a": x, "b": x}, {}, x.type.dtype)
    if kind == "concat" and x.type.matrix[0] == y.type.matrix[0]:
        return builder.emit("concat", name, {"x.0": x, "x.1": y}, {})
    if kind == "cast":
        return builder.emit("cast", name, {"x": x}, {}, "bf16" if x.type.dtype == "f32" else "f32")
    return builder.emit("layer_norm", name, {"x": x}, {}, x.type.dtype, eps=1e-5)


def _live_bytes(program: Program) -> int:
    """Lower bound of any arena: the bytes alive at the busiest op, counting a buffer in place once."""
    reads = program.last_reads()
    writers = {name: i for i, op in enumerate(program.ops) for name in op.outputs.values()}
    arena = [v for v in program.values.values() if v.storage == "arena"]
    busiest = 0
    for index in range(len(program.ops)):
        alive = [v for v in arena if writers[v.name] <= index <= reads.get(v.name, writers[v.name])]
        busiest = max(busiest, len({v.offset for v in alive}) * 64)
    return busiest


@given(programs())
@settings(max_examples=150, deadline=None)
def test_no_two_live_values_share_bytes(graph: Graph) -> None:
    check_graph(graph)
    assert graph.programs["act"].arena_bytes >= _live_bytes(graph.programs["act"])


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_full_size_plan_is_valid_and_small(precision: str) -> None:
    graph = build_graph(LightWAMConfig.libero(), StateDictWeights({}), ExportOptions(precision=precision))  # type: ignore[arg-type]
    check_graph(graph)
    # Three 224 x 448 x 96 maps are alive in the VAE's first residual blocks: input, norm, convolution.
    maps = 3 * 224 * 448 * 96 * (4 if precision == "f32" else 2)
    assert graph.programs["act"].arena_bytes < 1.05 * maps


def test_residual_stream_is_updated_in_place() -> None:
    graph = build_graph(LightWAMConfig.nano(), StateDictWeights({}), ExportOptions())
    values = graph.programs["act"].values
    assert values["blocks.0.self_attn.o"].offset == values["blocks.0.ffn.2"].offset == values["tokens"].offset


def test_value_read_through_two_roles_is_not_overwritten() -> None:
    constants: dict = {}  # type: ignore[type-arg]
    builder = ProgramBuilder(constants, "expert")
    state = builder.bind("state", "f32", (1, 8))
    x = builder.emit("layer_norm", "x", {"x": state}, eps=1e-5)
    y = builder.emit("add", "y", {"a": x, "b": x})
    program = _graph(builder.finish({"actions": y}), constants).programs["act"]
    assert program.values["x"].offset != program.values["y"].offset


def test_checker_finds_overlap_of_live_values() -> None:
    graph = build_graph(LightWAMConfig.nano(), StateDictWeights({}), ExportOptions())
    act = graph.programs["act"]
    q, k = act.values["blocks.0.self_attn.q_rope"], act.values["blocks.0.self_attn.k_rope"]
    broken = replace(act, values={**act.values, k.name: replace(k, offset=q.offset)})
    with pytest.raises(ExportError, match="share bytes while both live"):
        check_graph(replace(graph, programs={**graph.programs, "act": broken}))


def test_checker_finds_wrong_order_and_wrong_offsets() -> None:
    graph = build_graph(LightWAMConfig.nano(), StateDictWeights({}), ExportOptions())
    act = graph.programs["act"]
    swapped = replace(act, ops=(*act.ops[:-2], act.ops[-1], act.ops[-2]))
    with pytest.raises(ExportError, match="before it is written"):
        check_graph(replace(graph, programs={**graph.programs, "act": swapped}))
    twice = replace(act, ops=(*act.ops, act.ops[-1]))
    with pytest.raises(ExportError, match="a second time"):
        check_graph(replace(graph, programs={**graph.programs, "act": twice}))
    tokens = act.values["tokens"]
    for offset in (8, act.arena_bytes, -64, None):
        moved = replace(act, values={**act.values, "tokens": replace(tokens, offset=offset)})
        with pytest.raises(ExportError, match="value tokens: offset"):
            check_graph(replace(graph, programs={**graph.programs, "act": moved}))
