# SPDX-License-Identifier: Apache-2.0
"""Every op case of the table through the C++ runtime, beside the interpreter in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.one_op import INSTRUCTION, case_state, one_op_graph, one_op_policy
from helpers.op_cases import FP8_CASES, INT8_CASES, OP_CASES, OpCase
from lightwam.engine.builder import ProgramBuilder
from lightwam.engine.file import write_engine
from lightwam.engine.graph import Constant, Graph, Program, TensorType
from lightwam.engine.interpret import Interpreter
from lightwam.engine.memory_plan import plan_graph
from lightwam.engine.ops import OPS
from lightwam.errors import EngineError
from lightwam.export.layers import constant
from lightwam.runtime import Policy

LATENTS = np.zeros((1, 1, 1), np.float32)


def _interpreted(graph: Graph, context: np.ndarray, **inputs: object) -> np.ndarray:  # type: ignore[type-arg]
    interpreter = Interpreter(graph)
    interpreter.set_instruction(context)
    return np.asarray(interpreter.act(**inputs))  # type: ignore[arg-type]


def test_table_covers_every_op() -> None:
    elsewhere = {"preprocess_images", "text_key_bias"}
    cases = (*OP_CASES, *INT8_CASES, *FP8_CASES)
    assert {case.op for case in cases} | elsewhere == set(OPS)
    assert len({str(case) for case in cases}) == len(cases)


@pytest.mark.parametrize("case", (*OP_CASES, *INT8_CASES, *FP8_CASES), ids=str)
def test_runtime_equals_interpreter(case: OpCase, tmp_path: Path) -> None:
    graph = one_op_graph(case)
    write_engine(graph, tmp_path / "op.lwam")
    context, state = graph.constants["context"].array(), case_state()
    wanted = _interpreted(graph, context, state=state)
    made = []
    for threads in (1, 2):
        policy = Policy(tmp_path / "op.lwam", threads=threads)
        policy.set_instruction(INSTRUCTION)
        made.append(policy.infer({"latents": LATENTS, "state": state}).actions)
    np.testing.assert_array_equal(made[0], made[1])
    error = np.abs(made[0] - wanted).max() / np.abs(wanted).max()
    assert error <= case.tolerance(), f"{case}: {error}"


@pytest.mark.parametrize(("dtype", "half"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_the_interpreter_rounds_where_the_graph_says(dtype: str, half: torch.dtype) -> None:
    """The oracle itself: to 16 bits, and not at all when asked not to."""
    graph = one_op_graph(next(case for case in OP_CASES if str(case) == f"cast-to-{dtype}"))
    context, state = graph.constants["context"].array(), case_state()
    chunks = []
    for rounds in (False, True):
        interpreter = Interpreter(graph, rounds=rounds)
        interpreter.set_instruction(context)
        chunks.append(interpreter.act(state))
    exact, rounded = chunks
    np.testing.assert_array_equal(rounded, torch.tensor(exact).to(half).double().numpy())
    assert not np.array_equal(exact, rounded)


def _spoiled_groups(spoil: str) -> Graph:
    """A grouped linear of 8 bits, x [6, 8, 20], with a scale of the wrong shape, or of another rounding."""
    graph = one_op_graph(next(case for case in INT8_CASES if str(case).startswith("grouped_linear-6x8x20")))
    act, constants = graph.programs["act"], dict(graph.constants)
    values, ops = dict(act.values), list(act.ops)
    if spoil == "weight_scale":
        scale = constants["op.weight_scale"]
        shape = (8, scale.type.shape[0] // 8)
        constants["op.weight_scale"] = Constant(
            scale.name, TensorType("f32", shape), lambda: scale.array().reshape(shape)
        )
    elif spoil == "x_scale":
        values["quantized.scale"] = replace(values["quantized.scale"], type=TensorType("f32", (6, 8)))
    else:
        quantize = next(op for op in ops if op.op == "quantize_rows")
        others = {role: name.replace("quantized", "other") for role, name in quantize.outputs.items()}
        values |= {others[r]: replace(values[name], name=others[r]) for r, name in quantize.outputs.items()}
        ops.insert(ops.index(quantize), replace(quantize, name="other", outputs=others))
        index = next(i for i, op in enumerate(ops) if op.op == "grouped_linear")
        ops[index] = replace(ops[index], inputs={**ops[index].inputs, "x_zero": "other.zero"})
    programs = {**graph.programs, "act": replace(act, values=values, ops=tuple(ops))}
    made = replace(graph, programs=programs, constants=constants)
    return plan_graph(made) if spoil == "x_zero" else made


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("weight_scale", r"'weight_scale' has shape \[8, 70\]; expected \[560\]"),
        ("x_scale", r"'scale' has shape \[6, 8\]; expected \[48\]"),
        ("x_zero", r"input 'x_zero' is 'other.zero', 'zero' of op 'other' \(quantize_rows\); expected 'zero' of op"),
    ],
)
def test_misfit_scales_of_groups_are_refused(
    spoil: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightwam.engine.file.check_graph", lambda graph: None)  # the exporter would refuse it
    write_engine(_spoiled_groups(spoil), tmp_path / "op.lwam")
    with pytest.raises(EngineError, match=message):
        Policy(tmp_path / "op.lwam")


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_text_key_bias(rows: int, tmp_path: Path) -> None:
    constants: dict[str, Constant] = {}
    text = ProgramBuilder(constants, "text")
    text_rows = text.bind("text_rows", "i32", (1,))
    outputs = {"key_bias": TensorType("f32", (4,)), "key_count": TensorType("i32", (1,))}
    text.emit_many("text_key_bias", "text_key_bias", {"text_rows": text_rows}, outputs, "instruction")
    act = ProgramBuilder(constants, "expert")
    state = act.bind("state", "f32", (1, 8))
    bias = act.bind("key_bias", "f32", (4,), "instruction")
    weight = constant("w", "f32", (4, 8), lambda: torch.zeros(4, 8))
    zero = act.emit("linear", "zero", {"x": state}, {"weight": weight}, activation="none")
    actions = act.emit("add", "actions", {"a": zero, "b": bias})
    context = np.ones((rows, 4), np.float32)
    constants["context"] = Constant("context", TensorType("f32", (rows, 4)), lambda: context)
    programs = {"set_instruction": text.finish({}, also_needed=["key_bias"]), "act": act.finish({"actions": actions})}
    graph = plan_graph(Graph("bias", "f32", one_op_policy((1, 4), 4), programs, constants))
    write_engine(graph, tmp_path / "op.lwam")
    policy = Policy(tmp_path / "op.lwam")
    policy.set_instruction(INSTRUCTION)
    made = policy.infer({"latents": LATENTS, "state": case_state()}).actions
    np.testing.assert_allclose(made, _interpreted(graph, context, state=case_state()), rtol=1e-6)
    expected = np.zeros(4)
    if rows < 4:
        expected[rows] = np.log(4 - rows)
    np.testing.assert_allclose(made[0], expected, rtol=1e-6)


@pytest.mark.parametrize("reader", ["attention", "mean_pool"])
def test_rows_past_the_instruction_count_only_where_they_are_read(reader: str, tmp_path: Path) -> None:
    """Six context rows, two in use: attention sees three keys; an op that reads all rows gets all, bias and all."""
    rng = torch.Generator().manual_seed(0)
    constants: dict[str, Constant] = {}

    def random(name: str, *shape: int) -> Constant:
        numbers = torch.randn(shape, generator=rng)
        return constant(name, "f32", shape, lambda: numbers)

    text = ProgramBuilder(constants, "text")
    context = text.bind("context", "f32", (6, 4))
    hidden = text.emit("linear", "hidden", {"x": context}, {"weight": random("w", 8, 4), "bias": random("b", 8)},
                       activation="silu")  # fmt: skip
    heads = text.emit("reshape", "heads", {"x": hidden}, shape=(6, 2, 4))
    outputs = text.emit("grouped_linear", "outputs", {"x": heads}, {"weight": random("o", 2, 5, 4)},
                        storage="instruction")  # fmt: skip
    keys = text.emit("rms_norm", "keys", {"x": hidden}, {"weight": random("n", 8)}, storage="instruction", eps=1e-6,
                     activation="none")  # fmt: skip
    types = {"key_bias": TensorType("f32", (6,)), "key_count": TensorType("i32", (1,))}
    counted = text.emit_many("text_key_bias", "bias", {"text_rows": text.bind("text_rows", "i32", (1,))}, types,
                             "instruction")  # fmt: skip
    cached = {"key_text": keys, "output_text": outputs, **counted}
    act = ProgramBuilder(constants, "expert")
    state = act.bind("state", "f32", (1, 8))
    bound = {role: act.bind(v.name, v.type.dtype, v.type.shape, "instruction") for role, v in cached.items()}
    if reader == "attention":
        actions = act.emit("cross_attention_folded", "actions", {"q": state, **bound}, heads=2, scale=0.5)
    else:
        actions = act.emit("mean_pool", "actions", {"x": bound["output_text"]})
    rows = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    constants["context"] = Constant("context", TensorType("f32", (2, 4)), lambda: rows)
    program = act.finish({"actions": actions})
    kept = {name for op in program.ops for name in op.inputs.values()}
    programs = {"set_instruction": text.finish({}, also_needed=kept), "act": program}
    graph = plan_graph(Graph("rows", "f32", one_op_policy(actions.type.matrix, 6), programs, constants))
    write_engine(graph, tmp_path / "op.lwam")
    policy = Policy(tmp_path / "op.lwam")
    policy.set_instruction(INSTRUCTION)
    made = policy.infer({"latents": LATENTS, "state": case_state()}).actions
    np.testing.assert_allclose(made, _interpreted(graph, rows, state=case_state()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(256, 256), (100, 37), (16, 20), (9, 11)])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_preprocess_images(size: tuple[int, int], dtype: str, tmp_path: Path) -> None:
    """Two cameras, one turned by 180 degrees, reduced and enlarged, to a canvas of 16 x 36."""
    cameras = [
        {"name": "left", "rect": [0, 0, 16, 20], "rotate_180": True},
        {"name": "right", "rect": [0, 20, 16, 16], "rotate_180": False},
    ]
    constants: dict[str, Constant] = {}
    act = ProgramBuilder(constants, "preprocess")
    act.bind("state", "f32", (1, 8))
    canvas = act.emit("preprocess_images", "canvas", dtype=dtype, shape=(16, 36, 3))  # type: ignore[arg-type]
    actions = canvas if dtype == "f32" else act.emit("cast", "canvas.f32", {"x": canvas})
    actions = act.emit("reshape", "actions", {"x": actions}, {}, "f32", (16 * 36, 3))
    context = np.ones((1, 4), np.float32)
    constants["context"] = Constant("context", TensorType("f32", (1, 4)), lambda: context)
    policy_section = one_op_policy((16 * 36, 3), 1, starts_at="images", canvas=[16, 36], cameras=cameras)
    programs = {"set_instruction": Program({}, (), {}), "act": act.finish({"actions": actions})}
    graph = plan_graph(Graph("images", dtype, policy_section, programs, constants))  # type: ignore[arg-type]
    write_engine(graph, tmp_path / "op.lwam")
    rng = np.random.default_rng(0)
    images = {"left": rng.integers(0, 256, (*size, 3), np.uint8), "right": rng.integers(0, 256, (30, 40, 3), np.uint8)}
    policy = Policy(tmp_path / "op.lwam")
    policy.set_instruction(INSTRUCTION)
    made = policy.infer({"images": images, "state": case_state()}).actions
    wanted = _interpreted(graph, context, state=case_state(), images=images)
    np.testing.assert_allclose(made, wanted, atol=1e-5 if dtype == "f32" else 8e-3)
