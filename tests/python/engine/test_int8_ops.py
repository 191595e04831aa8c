# SPDX-License-Identifier: Apache-2.0
"""Eight-bit ops in the table and in the interpreter, beside plain integer arithmetic in NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers.one_op import case_state, one_op_graph
from helpers.op_cases import INT8_CASES, OpCase
from lightwam.engine.dtypes import Array
from lightwam.engine.graph import Graph, Program, TensorType
from lightwam.engine.interpret import Interpreter
from lightwam.engine.ops import OPS, Operands
from lightwam.engine.ops.linear import quantised_matmul, quantize_rows
from lightwam.engine.verify import check_graph
from lightwam.errors import ExportError


def _quantized(row: Array) -> tuple[Array, Array, Array]:
    """Section 4.1 of docs/reference/engine-format.md, written a second time: y, scale, zero of rows [R, K]."""
    rows = row.astype(np.float32)
    low = np.minimum(rows.min(1), np.float32(0))
    high = np.maximum(rows.max(1), np.float32(0))
    scale = ((high - low) / np.float32(255)).astype(np.float32)
    scale[scale < 2.0**-126] = 1
    zero = np.clip(np.rint(-128 - low / scale), -128, 127).astype(np.int64)
    y = np.clip(np.rint(rows / scale[:, None]).astype(np.int64) + zero[:, None], -128, 127)
    return y, scale, zero


_FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=_FINITE))
@settings(max_examples=200, deadline=None)
def test_rows_come_back_within_a_step(rows: Array) -> None:
    made = quantize_rows(torch.as_tensor(rows))
    scale, zero = made["scale"].numpy().astype(float), made["zero"].numpy().astype(float)
    back = (made["y"].numpy().astype(float) - zero[:, None]) * scale[:, None]
    # Half a step for the number, half a step more where the range's ends were moved to whole steps.
    assert (np.abs(back - rows) <= 1.001 * scale[:, None]).all()
    assert (back[rows == 0] == 0).all()


def test_rows_equal_the_written_rule() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 33)).astype(np.float32)
    rows[7], rows[8], rows[9] = 0, np.abs(rows[8]), -np.abs(rows[9])
    made = quantize_rows(torch.as_tensor(rows))
    y, scale, zero = _quantized(rows)
    np.testing.assert_array_equal(made["y"].numpy(), y)
    np.testing.assert_array_equal(made["scale"].numpy(), scale)
    np.testing.assert_array_equal(made["zero"].numpy(), zero)
    assert made["zero"][8] == -128 and made["zero"][9] == 127 and made["scale"][7] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_poison_their_rows_only(bad: float) -> None:
    rows = np.ones((3, 8), np.float32)
    rows[1, 5] = bad
    made = quantize_rows(torch.as_tensor(rows))
    made_rows = quantised_matmul(made["y"], made["scale"], made["zero"], torch.ones(4, 8).to(torch.int8), torch.ones(4))
    assert not torch.isfinite(made_rows[1]).any()
    assert torch.isfinite(made_rows[[0, 2]]).all()


def _trace(case: OpCase) -> tuple[dict[str, Any], Graph]:
    graph = one_op_graph(case)
    check_graph(graph)
    interpreter = Interpreter(graph, keep_trace=True)
    interpreter.set_instruction(graph.constants["context"].array())
    interpreter.act(case_state())
    return interpreter.trace, graph


@pytest.mark.parametrize("case", [c for c in INT8_CASES if c.op == "linear"], ids=str)
def test_linear_is_exact_in_integers(case: OpCase) -> None:
    trace, graph = _trace(case)
    x = trace["quantized.y"].numpy().reshape(-1, case.inputs["x"].shape[-1]).astype(np.int64)
    zero = trace["quantized.zero"].numpy().astype(np.int64)
    weight = graph.constants["op.weight"].array().astype(np.int64)
    assert abs(weight).max() == 127 and x.min() == -128 and (x.max() == 127 or case.inputs["x"].shape == (1, 8))
    sums = (x - zero[:, None]) @ weight.T
    scales = trace["quantized.scale"].numpy().astype(float)[:, None] * graph.constants["op.weight_scale"].array()
    wanted = torch.as_tensor(sums * scales)
    if "bias" in case.constants:
        wanted = wanted + torch.as_tensor(graph.constants["op.bias"].array()).double()
    gelu = torch.nn.functional.gelu
    activation = {
        "none": lambda x: x, "silu": torch.nn.functional.silu, "gelu": gelu,
        "gelu_tanh": lambda x: gelu(x, approximate="tanh"),
    }[str(case.attrs["activation"])]  # fmt: skip
    wanted = activation(wanted)
    if "residual" in case.inputs:
        wanted = wanted + trace["residual.flat" if "residual.shaped" not in trace else "residual.shaped"]
    made = trace["y"]
    if case.output == "bf16":
        wanted = wanted.to(torch.bfloat16).double()
    torch.testing.assert_close(made, wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("case", [c for c in INT8_CASES if c.op == "grouped_linear"], ids=str)
def test_grouped_linear_is_exact_in_integers(case: OpCase) -> None:
    """Every group of a row has a scale and a zero point of its own."""
    trace, graph = _trace(case)
    rows, groups, _ = case.inputs["x"].shape
    x = trace["quantized.y"].numpy().astype(np.int64)
    zero, scale = (trace[f"quantized.{part}"].numpy().reshape(rows, groups) for part in ("zero", "scale"))
    weight = graph.constants["op.weight"].array().astype(np.int64)
    weight_scale = graph.constants["op.weight_scale"].array().reshape(groups, -1).astype(float)
    wanted = np.zeros((rows, groups, weight.shape[1]))
    for row in range(rows):
        for group in range(groups):
            sums = weight[group] @ (x[row, group] - int(zero[row, group]))
            wanted[row, group] = sums * float(scale[row, group]) * weight_scale[group]
    wanted = wanted.reshape(rows, -1)
    if "bias" in case.constants:
        wanted = wanted + graph.constants["op.bias"].array()
    made = torch.as_tensor(wanted)
    made = made.to(torch.bfloat16).double() if case.output == "bf16" else made
    torch.testing.assert_close(trace["y"], made, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("case", [c for c in INT8_CASES if c.op == "quantize_rows"], ids=str)
def test_quantize_case_stays_within_its_tolerance(case: OpCase) -> None:
    """What a backend may differ by: a step for any rows, nothing but rounding for rows on the grid."""
    trace, _ = _trace(case)
    source = next(trace[name] for name in ("x.cast", "x.shaped", "x.flat") if name in trace)
    y, scale, zero = _quantized(source.flatten(0, -2).numpy())
    wanted = (y - zero[:, None]) * scale[:, None].astype(float)
    np.testing.assert_allclose(trace["y"].flatten(0, -2).numpy(), wanted, rtol=1e-12)
    assert (
        np.abs(wanted - source.flatten(0, -2).numpy()).max() <= case.tolerance() * np.abs(wanted).max() or case.on_grid
    )
    if case.on_grid:
        moved = source.flatten(0, -2).numpy() / scale[:, None]
        assert (np.abs(moved - np.rint(moved)) < 0.31).all()


def _operands(**changes: Any) -> Operands:
    inputs = {"x": TensorType("i8", (4, 6)), "x_scale": TensorType("f32", (4,)), "x_zero": TensorType("i32", (4,))}
    constants = {"weight": TensorType("i8", (3, 6)), "weight_scale": TensorType("f32", (3,))}
    for role, tensor in changes.items():
        group = constants if role.startswith("weight") or role == "bias" else inputs
        if tensor is None:
            del group[role]
        else:
            group[role] = tensor
    return Operands("linear", inputs, constants, {"activation": "none"})


def test_table_refuses_misfit_eight_bit_operands() -> None:
    assert OPS["linear"].check(_operands()) == {"y": (4, 3)}
    for role, tensor in (
        ("x_scale", None), ("x_zero", None), ("weight_scale", None), ("x_scale", TensorType("f32", (3,))),
        ("x_zero", TensorType("i8", (4,))), ("weight_scale", TensorType("bf16", (3,))),
        ("weight", TensorType("f32", (3, 6))), ("weight", TensorType("bf16", (3, 6))),
        ("x", TensorType("f32", (4, 6))), ("x", TensorType("i32", (4, 6))), ("bias", TensorType("i8", (3,))),
    ):  # fmt: skip
        with pytest.raises(ExportError, match="op linear needs"):
            OPS["linear"].check(_operands(**{role: tensor}))
    wide = {"x": TensorType("i8", (4, 66_312)), "weight": TensorType("i8", (3, 66_312))}
    with pytest.raises(ExportError, match="66311 columns"):
        OPS["linear"].check(_operands(**wide))


def test_table_refuses_misfit_groups() -> None:
    inputs = {"x": TensorType("i8", (4, 2, 6)), "x_scale": TensorType("f32", (8,)), "x_zero": TensorType("i32", (8,))}
    constants = {"weight": TensorType("i8", (2, 3, 6)), "weight_scale": TensorType("f32", (6,))}
    check = OPS["grouped_linear"].check
    assert check(Operands("grouped_linear", inputs, constants, {})) == {"y": (4, 6)}
    for role, tensor in (
        ("x_scale", TensorType("f32", (4,))), ("x_scale", TensorType("f32", (4, 2))),
        ("x_zero", TensorType("i32", (4,))), ("weight_scale", TensorType("f32", (3,))),
        ("weight_scale", TensorType("f32", (2, 3))),
        ("weight", TensorType("bf16", (2, 3, 6))), ("x", TensorType("bf16", (4, 2, 6))),
    ):  # fmt: skip
        group = constants if role.startswith("weight") else inputs
        with pytest.raises(ExportError, match="op grouped_linear needs"):
            changed = {**group, role: tensor}
            both = (inputs, changed) if group is constants else (changed, constants)
            check(Operands("grouped_linear", *both, {}))


@pytest.mark.parametrize("op", ["layer_norm", "cast", "reshape", "mean_pool", "quantize_rows"])
def test_no_other_op_reads_eight_bits(op: str) -> None:
    attrs = {"eps": 1e-5} if op == "layer_norm" else {}
    declared = {"y": TensorType("i8", (6, 4))} if op == "reshape" else {}
    with pytest.raises(ExportError, match="no i8 as x"):
        OPS[op].check(Operands(op, {"x": TensorType("i8", (4, 6))}, {}, attrs, declared))


def test_graph_with_a_float_output_of_quantize_rows_is_refused() -> None:
    graph = one_op_graph(INT8_CASES[0])
    act = graph.programs["act"]
    wrong = replace(act.values["quantized.y"], type=TensorType("f32", (1, 8)))
    program = Program({**act.values, "quantized.y": wrong}, act.ops, act.outputs, act.arena_bytes)
    with pytest.raises(ExportError, match="outputs y i8, scale f32, zero i32"):
        check_graph(replace(graph, programs={**graph.programs, "act": program}))
