# SPDX-License-Identifier: Apache-2.0
"""The ONNX models in ONNX Runtime beside the interpreter in float64: golden policies, nano, every op of the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnx
from helpers.golden import golden_policy
from helpers.one_op import case_state, one_op_graph
from helpers.op_cases import FP8_CASES, INT8_CASES, OP_CASES, OpCase
from lightwam.assets import bundled_engine
from lightwam.cli.onnx import OnnxArgs, main
from lightwam.config import LightWAMConfig
from lightwam.engine.graph import Graph
from lightwam.engine.images import compose_canvas
from lightwam.engine.interpret import Interpreter
from lightwam.errors import EngineError, ExportError
from lightwam.export.instructions import build_policy_graph
from lightwam.export.layers import constant
from lightwam.export.options import ExportOptions
from lightwam.export.policy_graph import build_graph
from lightwam.export.weights import RandomWeights, StateDictWeights
from lightwam.kernels.formats import bfloat16_bits
from lightwam.onnx import ops
from lightwam.onnx.export import write_onnx
from lightwam.onnx.rope import half_split_order, half_split_values

onnxruntime = pytest.importorskip(
    "onnxruntime", reason="ONNX Runtime is not installed: its pinned release needs Python 3.11 or newer"
)

# Both compute in float32, in another order of sums; measured: below 1e-6. The project's limit for float32 is 1e-4.
FLOAT32 = 1e-5
# A bf16 engine's own roundings of activations are not in the ONNX model, which keeps float32 between the ops.
BF16_COSINE = 0.9995


def run_onnx(graph: Graph, path: Path, context: Any, inputs: dict[str, Any], text_rows: int | None) -> Any:
    """Actions of both models in ONNX Runtime, the instruction's first."""
    files = write_onnx(graph, path, text_rows)
    rows, length = len(context), graph.policy["context_rows"]
    told: dict[str, Any] = {"context": np.asarray(context, np.float32)}
    if text_rows is None:
        padded = np.zeros((length, context.shape[1]), np.float32)
        padded[:rows] = context
        told = {"context": padded, "text_rows": np.array([rows], np.int32)}
    keeps = onnx.load(str(files.instruction), load_external_data=False).graph.output  # a one-op graph may keep nothing
    cache = _run(files.instruction, told) if keeps else {}
    made: Any = _run(files.act, {**cache, **inputs})["actions"]
    return made


def _run(path: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """Outputs by name; inputs that the model does not have are left out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)
    wanted = [value.name for value in session.get_inputs()]
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {name: inputs[name] for name in wanted}), strict=True))


def relative(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a) - b).max() / np.abs(b).max())


def cosine(a: Any, b: Any) -> float:
    x, y = np.ravel(a).astype(float), np.ravel(b).astype(float)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("fixed", [False, True], ids=["any length", "fixed length"])
@pytest.mark.parametrize("rows", [1, 3, None], ids=["one row", "three rows", "all rows"])
@pytest.mark.parametrize("name", ["golden_set1", "golden_set3"])
def test_golden_policies(name: str, rows: int | None, fixed: bool, tmp_path: Path) -> None:
    golden = golden_policy(name)
    options = ExportOptions(start_at="latents", latent_shape=golden.latent_shape, context_rows=golden.context_rows)
    graph = build_graph(golden.model.config, StateDictWeights(golden.model.state_dict()), options)
    context = golden.tensors["in.context"][0].numpy()[:rows]
    state, latents = golden.tensors["in.proprio"][0].numpy(), golden.tensors["in.latents"][0, :, 0].numpy()
    interpreter = Interpreter(graph)
    interpreter.set_instruction(context)
    wanted = interpreter.act(state, latents)
    inputs = {"state": state[None], "latents": latents}
    made = run_onnx(graph, tmp_path / "model.onnx", context, inputs, len(context) if fixed else None)
    assert made.dtype == np.float32 and made.shape == wanted.shape
    assert relative(made, wanted) < FLOAT32


def nano_graph(**options: Any) -> Graph:
    config = LightWAMConfig.nano()
    return build_policy_graph(config, RandomWeights(3), ExportOptions(**options), has_text_encoder=True)


def with_eps(graph: Graph, eps: float) -> Graph:
    """The graph with that eps in every norm of the VAE, whose own is too small to be seen."""
    act = graph.programs["act"]
    ops = tuple(
        replace(op, attrs={**op.attrs, "eps": eps}) if op.stage == "vae" and "eps" in op.attrs else op for op in act.ops
    )
    return replace(graph, programs={**graph.programs, "act": replace(act, ops=ops)})


@pytest.mark.parametrize(("precision", "eps"), [("f32", None), ("f32", 0.5), ("bf16", None), ("f16", None)])
def test_nano_from_the_canvas(precision: str, eps: float | None, tmp_path: Path) -> None:
    graph = nano_graph(precision=precision)
    graph = graph if eps is None else with_eps(graph, eps)
    rng = np.random.default_rng(0)
    images = {camera["name"]: rng.integers(0, 256, (96, 128, 3), np.uint8) for camera in graph.policy["cameras"]}
    state, context = rng.standard_normal(8).astype(np.float32), rng.standard_normal((5, 64)).astype(np.float32)
    interpreter = Interpreter(graph)
    interpreter.set_instruction(context)
    wanted = interpreter.act(state, images=images)
    canvas = np.asarray(compose_canvas(images, graph.policy), np.float32)
    made = run_onnx(graph, tmp_path / "model.onnx", context, {"state": state[None], "canvas": canvas}, None)
    if precision == "f32":
        assert relative(made, wanted) < FLOAT32
    assert cosine(made, wanted) >= BF16_COSINE


@pytest.mark.parametrize("case", OP_CASES, ids=str)
def test_every_op_of_the_table(case: OpCase, tmp_path: Path) -> None:
    """bf16 cases are held to the op's own tolerance: the ONNX model does not round between the ops."""
    graph = one_op_graph(case)
    context, state = graph.constants["context"].array(), case_state()
    interpreter = Interpreter(graph)
    interpreter.set_instruction(context)
    wanted = interpreter.act(state)
    made = run_onnx(graph, tmp_path / "op.onnx", context, {"state": np.reshape(state, (1, -1))}, None)
    assert relative(made.reshape(wanted.shape), wanted) <= case.tolerance()


@pytest.mark.parametrize("case", INT8_CASES[:1] + INT8_CASES[-1:] + FP8_CASES[:1], ids=str)
def test_eight_bit_ops_are_refused_by_name(case: OpCase, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"eight-bit.*float precision"):
        write_onnx(one_op_graph(case), tmp_path / "op.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_op_without_an_onnx_form_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ops._LOWERINGS, "mean_pool")
    with pytest.raises(ExportError, match=r"op y \(mean_pool\) has no ONNX form"):
        write_onnx(one_op_graph(next(case for case in OP_CASES if case.op == "mean_pool")), tmp_path / "op.onnx")
    assert list(tmp_path.iterdir()) == []


def test_files_are_valid_and_share_weights(tmp_path: Path) -> None:
    """The weights lie beside the models, each stored once, in the engine's own format."""
    graph = nano_graph(precision="bf16")
    told: list[int] = []
    files = write_onnx(graph, tmp_path / "model.onnx", None, told.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.instruction.onnx", "model.onnx", "model.onnx.data",
    ]  # fmt: skip
    onnx.checker.check_model(str(files.act))
    onnx.checker.check_model(str(files.instruction))
    act = onnx.load(str(files.act), load_external_data=False)
    assert {entry.key for entry in act.metadata_props} == {"lightwam.policy", "lightwam.name"}
    weights = sum(graph.constants[name].type.num_bytes for name in _constants_of_programs(graph))
    assert (
        weights / 1.02 < sum(told) < 1.02 * weights
    )  # small ones are in the model, the rotation's tables twice as wide
    assert files.num_bytes == files.weights.stat().st_size
    stored = {tensor.name: tensor for tensor in act.graph.initializer}
    assert stored["blocks.0.ffn.0.weight"].data_type == onnx.TensorProto.BFLOAT16
    places = {(entry.key, entry.value) for entry in stored["blocks.0.ffn.0.weight"].external_data}
    offset = int(dict(places)["offset"])
    raw = np.fromfile(files.weights, np.uint16, graph.constants["blocks.0.ffn.0.weight"].array().size, offset=offset)
    np.testing.assert_array_equal(raw, graph.constants["blocks.0.ffn.0.weight"].array().ravel())


def _constants_of_programs(graph: Graph) -> set[str]:
    return {name for program in graph.programs.values() for op in program.ops for name in op.constants.values()}


def test_half_split_rotation_is_used_where_nothing_else_sees_the_order() -> None:
    graph = nano_graph()
    act = graph.programs["act"]
    chosen = half_split_values(act)
    ropes = [op for op in act.ops if op.op == "rms_norm_rope"]
    assert set(chosen) == {op.inputs["x"] for op in ropes} and ropes
    # A second reader of the linear's output would see the channels in another order: all stay as they are.
    spy = replace(ropes[0], op="mean_pool", name="spy", constants={}, attrs={}, outputs={"y": "spy"})
    watched = half_split_values(replace(act, ops=(*act.ops, spy)))
    assert ropes[0].inputs["x"] not in watched and len(watched) == len(chosen) - 2


def test_half_split_order() -> None:
    np.testing.assert_array_equal(half_split_order(8, 2), [0, 2, 1, 3, 4, 6, 5, 7])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "model.txt"}, "model.txt.*ends in .onnx"),
        ({"path": "model.onnx", "text_rows": 0}, "text_rows is 0.*1..24"),
        ({"path": "model.onnx", "text_rows": 25}, "text_rows is 25.*1..24"),
    ],
)
def test_bad_options_are_one_line(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        write_onnx(nano_graph(), tmp_path / arguments.pop("path"), **arguments)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    graph = nano_graph()
    name = "blocks.3.ffn.0.weight"
    shape = graph.constants[name].type.shape

    def fail() -> Any:
        raise OSError("disk")

    broken = {**graph.constants, name: constant(name, "f32", shape, fail)}
    with pytest.raises(OSError, match="disk"):
        write_onnx(replace(graph, constants=broken), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_after_the_weights_keeps_the_older_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_onnx(nano_graph(), tmp_path / "model.onnx")
    older = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: Any) -> Any:
        raise OSError("disk")

    monkeypatch.setattr(Path, "write_bytes", fail)  # the models, written after the weights
    with pytest.raises(OSError, match="disk"):
        write_onnx(nano_graph(precision="bf16"), tmp_path / "model.onnx")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == older


def test_a_damaged_engine_is_refused(tmp_path: Path) -> None:
    whole = bundled_engine().read_bytes()
    engine = tmp_path / "damaged.lwam"
    engine.write_bytes(whole[:-10] + bytes([whole[-10] ^ 1]) + whole[-9:])
    with pytest.raises(EngineError, match=r"has checksum .* expected"):
        main(OnnxArgs(engine, tmp_path / "model.onnx"))
    assert list(tmp_path.iterdir()) == [engine]


def test_bf16_bits_survive_the_reordering() -> None:
    """Reordering moves stored numbers, it computes none: bfloat16 patterns pass through."""
    bits = bfloat16_bits(np.arange(16, dtype=np.float32).reshape(8, 2))
    np.testing.assert_array_equal(bits[half_split_order(8, 2)][1], bits[2])
