# SPDX-License-Identifier: Apache-2.0
"""Eight-bit engines made of golden ones: which layers, which gates, which fall-backs, and nothing half-written."""

from __future__ import annotations

import functools
import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers.exported import golden_engine
from lightwam.assets import bundled_engine
from lightwam.engine.dtypes import Array
from lightwam.engine.file import check_checksums, read_engine, write_engine
from lightwam.engine.graph import Constant, Graph, TensorType
from lightwam.engine.interpret import Interpreter, instruction_context
from lightwam.engine.verify import check_graph
from lightwam.errors import ConfigError, EngineError, ExportError
from lightwam.kernels.formats import bfloat16_bits
from lightwam.quantize.calibration import Observations, random_observations
from lightwam.quantize.chunk_gate import agreement, chunk_value, gripper_column, probe_graph, run_probe
from lightwam.quantize.layers import find_layers, quantize_graph, quantize_weight, scale_name
from lightwam.quantize.quantize_engine import fewest_kept_float, quantize_engine
from lightwam.quantize.report import QuantizeOptions, QuantizeReport, report_path

SMALL = QuantizeOptions(min_weights=1, runner="interpreter")


class Quantised(NamedTuple):
    """An engine file made with `SMALL` from four held-out observations, and its report."""

    path: Path
    report: QuantizeReport


@pytest.fixture(scope="module")
def engine() -> Path:
    return golden_engine("golden_set1", "f32")


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Quantised]:
    """Quantises each engine once."""

    @functools.cache
    def quantise(engine: Path) -> Quantised:
        out = tmp_path_factory.mktemp("quantised") / "q.lwam"
        return Quantised(out, quantize_engine(engine, out, _observations(engine), SMALL))

    return quantise


@pytest.fixture(
    scope="module",
    params=[("golden_set1", "f32"), ("golden_set3", "bf16"), ("golden_set3", "f16")],
    ids=lambda p: f"{p[0]}-{p[1]}",
)
def any_engine(request: pytest.FixtureRequest) -> Path:
    return golden_engine(*request.param)


def _observations(engine: Path, count: int = 4) -> Observations:
    return random_observations(read_engine(engine), 2, count, seed=0)


def _changed(engine: Path, out: Path, name: str, change: Callable[[Array], Array]) -> Path:
    """The engine with other numbers in one constant."""
    graph = read_engine(engine)
    numbers = np.asarray(change(np.array(graph.constants[name].array())), np.float32)
    made = replace(graph.constants[name], load=lambda: numbers)
    write_engine(replace(graph, constants={**graph.constants, name: made}), out)
    return out


def _with_outlier(engine: Path, out: Path) -> Path:
    """Row 0 of the first FFN linear of block 0 is blown up by 3000, column 0 of the second one shrunk: one channel
    outshines the rest of every row that the second linear reads."""
    middle = _changed(engine, out.with_name("middle.lwam"), "blocks.0.ffn.0.bias", lambda b: b + 3000 * _unit(b))
    return _changed(middle, out, "blocks.0.ffn.2.weight", lambda w: w * (1 - _unit(w[0])) + 1e-4 * _unit(w[0]))


def _unit(like: Array) -> Array:
    unit = np.zeros_like(like)
    unit[0] = 1
    return unit


def test_every_large_linear_but_the_edges(any_engine: Path) -> None:
    engine = any_engine
    graph = read_engine(engine)
    layers = find_layers(graph, min_weights=1)
    names = {layer.name for layer in layers}
    linears = {op.constants["weight"].removesuffix(".weight") for op in graph.programs["act"].ops if op.op == "linear"}
    assert linears - names == {"proprio_embedding", "expert.output.2"}
    shared = next(layer for layer in layers if layer.name == "blocks.0.cross_attn.k")
    assert [program for program, _ in shared.uses] == ["act", "set_instruction"]
    assert not {"text_embedding.0"} & names
    quantised = quantize_graph(graph, layers)
    check_graph(quantised)
    ops = {op.name: op for op in quantised.programs["act"].ops}
    q, k, v = (ops[f"blocks.0.self_attn.{part}"] for part in "qkv")
    assert q.inputs == k.inputs == v.inputs and q.inputs["x"] != ops["blocks.0.ffn.0"].inputs["x"]
    assert quantised.constants["blocks.0.ffn.0.weight"].type.dtype == "i8"
    assert quantised.constants["text_embedding.0.weight"].type == graph.constants["text_embedding.0.weight"].type
    # Quantising is worth it from a size on, counted over all linears that read one value.
    q_size = int(np.prod(graph.constants["blocks.0.self_attn.q.weight"].type.shape))
    larger = {layer.name for layer in find_layers(graph, min_weights=3 * q_size)}
    assert "blocks.0.self_attn.q" in larger and "blocks.0.cross_attn.q" not in larger


def test_golden_engine_passes_and_the_report_is_true(any_engine: Path, quantised: Callable[[Path], Quantised]) -> None:
    engine, observations = any_engine, _observations(any_engine)
    out, report = quantised(engine)
    assert report.passed and not report.fallbacks and report.chunk is not None
    check_checksums(out)
    stored = json.loads(report_path(out).read_text())
    graph = read_engine(out)
    assert graph.precision == "int8" and graph.provenance["quantization"] == report.summary()
    assert stored["layers_int8"] == len(find_layers(read_engine(engine), 1)) == len(stored["layers"])
    assert sorted(path.name for path in out.parent.iterdir()) == ["q.lwam", "q.report.json"]
    cosines = []
    for observation in observations.held_out:
        chunks = []
        for source in (read_engine(engine), graph):
            interpreter = Interpreter(source)
            interpreter.set_instruction(instruction_context(source, "go"))
            chunks.append(np.ravel(interpreter.act(observation.state, observation.latents)))
        cosines.append(chunks[0] @ chunks[1] / np.linalg.norm(chunks[0]) / np.linalg.norm(chunks[1]))
    # float64 here, float32 there: a quotient near one half may round to the other side.
    assert min(cosines) == pytest.approx(report.chunk.cosine_min, abs=6e-4)
    assert 0.999 < report.chunk.cosine_min < 1 and report.chunk.cosine_min >= SMALL.chunk_gate
    assert all(0 < entry.errors.output < 0.05 for entry in report.layers if entry.errors is not None)


def test_same_input_same_bytes(engine: Path, quantised: Callable[[Path], Quantised], tmp_path: Path) -> None:
    first, again = quantised(engine).path, tmp_path / "again"
    quantize_engine(engine, again, _observations(engine), SMALL)
    assert first.read_bytes() == again.read_bytes()
    assert report_path(first).read_text() == report_path(again).read_text()


def test_layer_error_is_the_defined_one(engine: Path, quantised: Callable[[Path], Quantised]) -> None:
    """One layer again, in float64, from its input in the interpreter's trace: it reads at most 64 rows."""
    observations, report, graph = _observations(engine), quantised(engine).report, read_engine(engine)
    name, x_name = "blocks.0.ffn.2", "blocks.0.ffn.0"
    weight, bias = (graph.constants[f"{name}.{part}"].array().astype(float) for part in ("weight", "bias"))
    error = reference = 0.0
    for observation in observations.calibration:
        interpreter = Interpreter(graph, keep_trace=True)
        interpreter.set_instruction(instruction_context(graph, "go"))
        interpreter.act(observation.state, observation.latents)
        x = interpreter.trace[x_name].numpy()
        low, high = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
        step = ((high - low) / 255)[:, None]
        zero = np.rint(-128 - low[:, None] / step)
        back = (np.clip(np.rint(x / step) + zero, -128, 127) - zero) * step
        scale = np.abs(weight).max(1, keepdims=True) / 127
        difference = back @ (np.rint(weight / scale) * scale).T - x @ weight.T
        error, reference = error + np.square(difference).sum(), reference + np.square(x @ weight.T + bias).sum()
    measured = next(entry.errors for entry in report.layers if entry.layer.name == name)
    assert measured is not None
    assert measured.output == pytest.approx(np.sqrt(error / reference), rel=0.02)


def test_outlier_layer_falls_back_and_is_named(engine: Path, tmp_path: Path) -> None:
    bad = _with_outlier(engine, tmp_path / "bad.lwam")
    report = quantize_engine(bad, tmp_path / "q.lwam", _observations(bad), SMALL)
    assert report.passed
    assert [(e.layer.name, e.verdict) for e in report.fallbacks] == [
        ("blocks.0.ffn.2", "float: output error over 0.05")
    ]
    graph = read_engine(tmp_path / "q.lwam")
    assert graph.constants["blocks.0.ffn.2.weight"].type.dtype == "f32"
    assert graph.provenance["quantization"]["layers_float"] == {"blocks.0.ffn.2": "float: output error over 0.05"}


def test_chunk_gate_takes_the_worst_layers_out(engine: Path, tmp_path: Path) -> None:
    """The same layer passes a gate that is wide open; then the chunk's own gate must find it, and no other."""
    bad = _with_outlier(engine, tmp_path / "bad.lwam")
    options = replace(SMALL, layer_gate=1.0, chunk_gate=0.9995)
    report = quantize_engine(bad, tmp_path / "q.lwam", _observations(bad), options)
    assert report.passed and report.chunk is not None and report.chunk.cosine_min >= 0.9995
    assert report.tries[0][0] == 0 and report.tries[0][1] < 0.9995
    assert report.fallbacks[0].layer.name == "blocks.0.ffn.2" and "chunk cosine under" in report.fallbacks[0].verdict
    errors = {entry.layer.name: entry.errors.output for entry in report.layers if entry.errors}
    kept = {entry.layer.name for entry in report.fallbacks}
    assert min(errors[name] for name in kept) >= max(e for name, e in errors.items() if name not in kept)


def test_gate_that_cannot_be_met_writes_nothing(engine: Path, tmp_path: Path) -> None:
    out = tmp_path / "q.lwam"
    old = engine.read_bytes()
    out.write_bytes(old)
    for options in (replace(SMALL, chunk_gate=1.0), replace(SMALL, layer_gate=1e-6)):
        report = quantize_engine(engine, out, _observations(engine, 2), options)
        assert not report.passed and all(entry.verdict != "int8" for entry in report.layers)
        assert out.read_bytes() == old and list(tmp_path.iterdir()) == [out]


def test_layers_named_by_hand_stay_float(engine: Path, tmp_path: Path) -> None:
    options = replace(SMALL, keep_float=("expert.*", "blocks.0.ffn.2"))
    report = quantize_engine(engine, tmp_path / "q.lwam", _observations(engine), options)
    assert {entry.verdict for entry in report.fallbacks} == {"float: asked for"}
    assert all(e.layer.name.startswith("expert.") or e.layer.name == "blocks.0.ffn.2" for e in report.fallbacks)
    assert any(entry.layer.name.startswith("expert.") for entry in report.fallbacks)
    with pytest.raises(ConfigError, match="'nothing' names no layer"):
        quantize_engine(engine, tmp_path / "r.lwam", _observations(engine), replace(SMALL, keep_float=("nothing",)))
    with pytest.raises(ExportError, match="no layer to quantise"):
        quantize_engine(engine, tmp_path / "r.lwam", _observations(engine), replace(SMALL, keep_float=("*",)))


def test_reference_of_another_precision(tmp_path: Path) -> None:
    """A bf16 engine gated against the f32 one: further away than from itself, and the report says which it was."""
    exact, engine, found = golden_engine("golden_set1", "f32"), golden_engine("golden_set1", "bf16"), []
    for reference in (None, exact):
        options = replace(SMALL, reference=reference)
        found.append(quantize_engine(engine, tmp_path / "q.lwam", _observations(engine), options))
    assert [report.reference for report in found] == ["bf16", "f32"]
    assert found[0].chunk is not None and found[1].chunk is not None
    assert found[0].chunk.relative_error != found[1].chunk.relative_error
    with pytest.raises(ConfigError, match="is an int8 engine"):
        quantize_engine(
            engine, tmp_path / "r.lwam", _observations(engine), replace(SMALL, reference=tmp_path / "q.lwam")
        )
    other = golden_engine("golden_set3", "f32")
    with pytest.raises(
        ConfigError, match=r"reference .*golden_set3-f32\.lwam has .*, engine .* has .*: give a float engine"
    ):
        quantize_engine(engine, tmp_path / "r.lwam", _observations(engine), replace(SMALL, reference=other))
    damaged = bytearray(exact.read_bytes())
    damaged[-10] ^= 1
    (tmp_path / "damaged.lwam").write_bytes(damaged)
    with pytest.raises(EngineError, match=r"damaged\.lwam: .* has checksum"):
        quantize_engine(
            engine, tmp_path / "r.lwam", _observations(engine), replace(SMALL, reference=tmp_path / "damaged.lwam")
        )
    assert not (tmp_path / "r.lwam").exists()


def test_unfit_engines_are_refused(engine: Path, quantised: Callable[[Path], Quantised], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="quantised already"):
        quantize_engine(quantised(engine).path, tmp_path / "r.lwam", _observations(engine), SMALL)
    damaged = bytearray(engine.read_bytes())
    damaged[-10] ^= 1
    (tmp_path / "damaged.lwam").write_bytes(damaged)
    with pytest.raises(EngineError, match=r"has checksum .* expected"):
        quantize_engine(tmp_path / "damaged.lwam", tmp_path / "r.lwam", _observations(engine), SMALL)
    sick = _changed(engine, tmp_path / "sick.lwam", "blocks.0.ffn.0.weight", lambda w: w * np.nan)
    with pytest.raises(ExportError, match=r"weight blocks\.0\.ffn\.0\.weight holds NaN"):
        quantize_engine(sick, tmp_path / "r.lwam", _observations(engine), SMALL)
    assert not (tmp_path / "r.lwam").exists() and not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_probe_shows_the_chunk_twice(engine: Path, tmp_path: Path) -> None:
    graph, observations = read_engine(engine), _observations(engine, 2).held_out
    write_engine(probe_graph(graph), tmp_path / "probe.lwam")
    shown = run_probe(tmp_path / "probe.lwam", observations, "interpreter", None)
    width = graph.policy["action_width"]
    for observation, both in zip(observations, shown, strict=True):
        interpreter = Interpreter(graph, keep_trace=True)
        interpreter.set_instruction(instruction_context(graph, "go"))
        final = interpreter.act(observation.state, observation.latents)
        np.testing.assert_allclose(both[:, :width], interpreter.trace[chunk_value(graph)].numpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(both[:, width:], final, rtol=1e-4, atol=1e-6)


def test_chunk_of_a_policy_in_robot_units() -> None:
    """The bundled policy's chunk lies before both its de-normalisation and its gripper's rule."""
    graph = read_engine(bundled_engine())
    act = graph.programs["act"]
    assert chunk_value(graph) == "expert.actions" != act.outputs["actions"]
    assert gripper_column(graph) == 6
    probe = probe_graph(graph)
    check_graph(probe)
    assert probe.programs["act"].values["probe"].type.shape == (16, 14)


def test_runtime_and_interpreter_agree(any_engine: Path, tmp_path: Path) -> None:
    """Quotients near one half may round to the other side in either, which is noise of the quantisation's own size."""
    options = replace(SMALL, runner="runtime", threads=1)
    report = quantize_engine(any_engine, tmp_path / "q.lwam", _observations(any_engine), options)
    assert report.passed and not report.fallbacks
    held_out, probe = _observations(any_engine).held_out, tmp_path / "probe.lwam"
    write_engine(probe_graph(read_engine(tmp_path / "q.lwam")), probe)
    one, two, slow = (
        run_probe(probe, held_out, runner, threads)  # type: ignore[arg-type]
        for runner, threads in (("runtime", 1), ("runtime", 2), ("interpreter", None))
    )
    np.testing.assert_array_equal(one, two)
    assert agreement(one, slow, None).cosine_min > 0.999


def test_agreement_by_hand() -> None:
    """Two observations, one step of two actions, the second of them the gripper's."""
    wanted = np.array([[[3.0, 4.0, 30.0, 1.0]], [[1.0, 0.0, 10.0, -1.0]]])
    made = np.array([[[3.0, 4.0, 30.0, 1.0]], [[1.0, 0.1, 10.0, 1.0]]])
    found = agreement(made, wanted, gripper=1)
    assert found.cosine_min == pytest.approx(1 / np.sqrt(1.01))
    assert found.cosine_mean == pytest.approx((1 + found.cosine_min) / 2)
    assert (found.motion_cosine_min, found.gripper_flips, found.gripper_steps) == (1.0, 1, 2)
    assert found.final_cosine_min == pytest.approx((100 - 1) / 101)
    assert found.flip_score_change == pytest.approx(0.1)
    assert found.relative_error == pytest.approx(0.1 / np.sqrt(26))
    with pytest.raises(ExportError, match="not finite"):
        agreement(made * np.nan, wanted, gripper=1)


@given(st.integers(1, 300), st.data())
def test_bisection_equals_trying_one_by_one(count: int, data: st.DataObject) -> None:
    needed = data.draw(st.integers(0, count))
    tried: list[int] = []

    def passes(kept: int) -> bool:
        tried.append(kept)
        return kept >= needed

    assert fewest_kept_float(count, passes) == (None if needed == count else needed)
    assert len(tried) == len(set(tried)) <= 2 + int(np.log2(count))
    assert fewest_kept_float(0, passes) is None


@given(hnp.arrays(np.float32, (5, 7), elements=st.floats(-(2.0**60), 2.0**60, width=32)), st.booleans())
def test_weights_come_back_within_half_a_step(weight: Array, bf16: bool) -> None:
    stored = bfloat16_bits(weight) if bf16 else weight
    source = Constant("w", TensorType("bf16" if bf16 else "f32", (5, 7)), lambda: stored)
    numbers, scale = quantize_weight(stored, source)
    assert numbers.min() >= -127 and (scale > 0).all() and np.isfinite(scale).all()
    wide = (stored.astype(np.uint32) << 16).view(np.float32) if bf16 else weight
    back = numbers * scale[:, None].astype(float)
    assert (np.abs(back - wide) <= 0.5001 * scale[:, None]).all()
    largest = np.abs(wide).max(1)
    assert (np.abs(numbers).max(1)[largest > 1e-30] == 127).all() and (numbers[largest == 0] == 0).all()


def _counted(graph: Graph, alive: list[int], most: list[int]) -> Graph:
    """The graph with constants that count how many of their arrays are in memory."""

    def count(constant: Constant) -> Constant:
        def load() -> Array:
            made = np.array(constant.array())
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            weakref.finalize(made, lambda: alive.__setitem__(0, alive[0] - 1))
            return made

        return replace(constant, load=load)

    return replace(graph, constants={name: count(constant) for name, constant in graph.constants.items()})


def test_writing_holds_one_weight_at_a_time(engine: Path, tmp_path: Path) -> None:
    alive, most = [0], [0]
    graph = read_engine(engine)
    counted = _counted(graph, alive, most)
    gc.disable()
    try:
        write_engine(quantize_graph(counted, find_layers(graph, 1)), tmp_path / "q.lwam")
    finally:
        gc.enable()
    # The array just written lives until the next one is made.
    assert most[0] <= 2 and alive[0] <= 1


def test_scale_is_not_made_twice(engine: Path, tmp_path: Path) -> None:
    """Folding a weight is dear: writing weight and scale loads it once."""
    graph, asked = read_engine(engine), []
    constant = graph.constants["blocks.0.ffn.0.weight"]

    def load() -> Array:
        asked.append(1)
        return constant.array()

    made = replace(graph, constants={**graph.constants, constant.name: replace(constant, load=load)})
    quantised = quantize_graph(made, find_layers(made, 1))
    write_engine(quantised, tmp_path / "q.lwam")
    assert len(asked) == 1
    wanted = quantize_weight(constant.array(), constant)[1]
    np.testing.assert_array_equal(quantised.constants[scale_name(constant.name)].array(), wanted)
