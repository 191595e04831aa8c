# SPDX-License-Identifier: Apache-2.0
"""Two verifiers, one format: what the runtime (C++) takes, `check_graph` takes, and nothing else. And where a form is
unusual, runtime and interpreter compute the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.engine_files import TASK, Engine, observation, small_engine, write_engine
from helpers.hostile_files import add_values, both, both_values, document, op, role, tensor, value
from lightwam.engine.file import read_engine
from lightwam.engine.interpret import Interpreter, instruction_context
from lightwam.engine.ops import OPS
from lightwam.engine.verify import check_graph, check_usual_forms
from lightwam.errors import EngineError, ExportError, InstructionError
from lightwam.gpu.lower import lower
from lightwam.onnx.export import write_onnx
from lightwam.runtime import Policy, _engine

ATTRS = [0, 1, 2, 3, 4, 8, 1.0, 0.5, -1, 1e-60, 1e39, None, "none", "silu", [0, 0, 1, 1], True, 65536, 65537]


def by_runtime(path: Path) -> str | None:
    try:
        _engine.verify(str(path))
    except EngineError as error:
        return str(error)
    return None


def by_check_graph(path: Path) -> str | None:
    try:
        check_graph(read_engine(path))
    except (EngineError, ExportError) as error:
        return str(error)
    return None


def other_shape(rng: random.Random, shape: list[int]) -> list[int]:
    """Another shape of as many elements, most of them with the same matrix view."""
    forms = [[int(np.prod(shape[:-1])), shape[-1]], [1, *shape], [int(np.prod(shape))], [*shape, 1]]
    return rng.choice([*forms, [2, shape[0] // 2, *shape[1:]]] if shape[0] % 2 == 0 else forms)


def change_value(rng: random.Random, program: dict[str, Any]) -> None:
    entry = rng.choice(program["values"])
    kind = rng.randrange(4)
    if kind < 2:
        entry["shape"] = other_shape(rng, entry["shape"])
    elif kind == 2:
        entry["dtype"] = rng.choice(["f32", "bf16", "f16", "f8", "i8", "i32"])
    elif "offset" in entry:
        entry["offset"] = rng.choice([0, 64, 512, 2048, rng.choice(program["values"]).get("offset", 0)])


def change_op(rng: random.Random, program: dict[str, Any], engine: Engine) -> None:
    chosen = rng.choice(program["ops"])
    kind = rng.randrange(4)
    group = chosen[rng.choice(["inputs", "constants", "outputs"])]
    if kind == 0:
        chosen["op"] = rng.choice(sorted(OPS))
    elif kind == 1 and chosen["attrs"]:
        chosen["attrs"][rng.choice(list(chosen["attrs"]))] = rng.choice(ATTRS)
    elif kind == 2 and group:
        names = list(engine.tensors) if group is chosen["constants"] else [v["name"] for v in program["values"]]
        group[rng.choice(list(group))] = rng.choice(names)
    elif kind == 3 and group:
        taken = group.pop(rng.choice(list(group)))
        group[rng.choice(["x", "x.0", "x.01", "a", "b", "residual", "weight", "bias", "z"])] = taken


def change_tensor(rng: random.Random, engine: Engine) -> None:
    name = rng.choice(list(engine.tensors))
    numbers = engine.tensors[name]
    kinds = [numbers.astype(np.float16), numbers.astype(np.int8), numbers.reshape(other_shape(rng, [*numbers.shape]))]
    engine.tensors[name] = rng.choice(kinds)


def mutated(seed: int) -> Engine:
    rng = random.Random(seed)
    engine = small_engine(images=rng.random() < 0.5)
    for _ in range(rng.choice([1, 1, 2])):
        program = engine.document["programs"][rng.choice(["act", "act", "set_instruction"])]
        kind = rng.randrange(8)
        if kind < 3:
            change_value(rng, program)
        elif kind < 6:
            change_op(rng, program, engine)
        elif kind == 6:
            change_tensor(rng, engine)
        else:
            program["ops"].insert(rng.randrange(len(program["ops"])), program["ops"].pop())
    return engine


def test_verifiers_agree_on_changed_graphs(tmp_path: Path) -> None:
    verdicts = []
    for seed in range(250):
        path = write_engine(tmp_path / "changed.lwam", mutated(seed))
        runtime, own = by_runtime(path), by_check_graph(path)
        assert (runtime is None) == (own is None), f"seed {seed}: runtime {runtime!r}, check_graph {own!r}"
        verdicts.append(own is None)
    assert 25 < sum(verdicts) < 225  # both verdicts were reached


def layer_norm(*roles: str) -> Callable[[Engine], None]:
    constants = dict.fromkeys(roles, "norm.weight")
    return both(op("norm", op="layer_norm", constants=constants, attrs={"eps": 1e-6}))


def two_constants(engine: Engine) -> None:
    """`pooled` plus the sum of two constants of unlike shapes."""
    rng = np.random.default_rng(3)
    engine.tensors |= {"left": rng.normal(size=(1, 1, 8)).astype("f4"), "right": rng.normal(size=8).astype("f4")}
    add_values("sum", "shifted", shape=[1, 8])(engine)
    fields = {"op": "add", "stage": "expert", "attrs": {}}
    first = {"name": "sum", "inputs": {}, "constants": {"a": "left", "b": "right"}, "outputs": {"y": "sum"}}
    second = {"name": "shift", "inputs": {"a": "pooled", "b": "sum"}, "constants": {}, "outputs": {"y": "shifted"}}
    at = engine.act["ops"].index(engine.op("state"))
    engine.act["ops"][at:at] = [fields | first, fields | second]
    engine.op("state")["inputs"]["residual"] = "shifted"


def pooled_by_queries(dtype: str) -> Callable[[Engine], None]:
    def spoil(engine: Engine) -> None:
        scores = np.random.default_rng(4).normal(size=(1, 8)).astype(np.float16).astype(np.float32)
        engine.tensors |= {"scores": scores.astype(dtype), "merge": np.ones((1, 1), np.float32)}
        engine.op("pool").update(op="learned_query_pool", attrs={"heads": 1, "queries": 1, "eps": 1e-6})
        engine.op("pool")["constants"] = {"scores": "scores", "merge": "merge"}
        engine.value("pooled")["shape"] = [1, 1, 8]
        # in place of [1, 1, 8] no [1, 8] may be written
        add_values("apart", shape=[1, 8])(engine)
        engine.value("fused")["offset"] = engine.value("apart")["offset"]
        engine.act["values"].remove(engine.value("apart"))

    return spoil


UNUSUAL = {
    "matrix view of queries": value("query", shape=[4, 8, 8]),
    "matrix view of what attention writes": value("attended", shape=[2, 16, 8]),
    "matrix views of keys and values": both(both_values("key", shape=[2, 3, 8]), both_values("value", shape=[6, 1, 8])),
    "layer_norm with a weight alone": layer_norm("weight"),
    "layer_norm with a bias alone": layer_norm("bias"),
    "an addition of two constants": two_constants,
    "scores in f16": pooled_by_queries("f2"),
}


@pytest.mark.parametrize("change", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_forms_run_alike(tmp_path: Path, change: Callable[[Engine], None]) -> None:
    engine = small_engine()
    change(engine)
    path = write_engine(tmp_path / "unusual.lwam", engine)
    graph = read_engine(path)
    check_graph(graph)
    policy, interpreter = Policy(path, threads=1), Interpreter(graph)
    policy.set_instruction(TASK)
    interpreter.set_instruction(instruction_context(graph, TASK))
    seen = observation()
    expected = interpreter.act(seen["state"], images=seen["images"])
    np.testing.assert_allclose(policy.infer(seen).actions, expected, atol=2e-5 * float(np.abs(expected).max()))
    with pytest.raises(ExportError, match="in a form that only the CPU runs"):
        lower(graph)
    with pytest.raises(ExportError, match="in a form that only the CPU runs"):
        write_onnx(graph, tmp_path / "unusual.onnx")


def test_usual_forms_are_those_of_our_exporter() -> None:
    from lightwam.assets import bundled_engine

    check_usual_forms(read_engine(bundled_engine()))


def test_a_text_without_words_is_refused_by_both(tmp_path: Path) -> None:
    """Though the template around it has some."""
    engine = small_engine()
    document("policy.prompt_template", "please {task} now")(engine)
    path = write_engine(tmp_path / "template.lwam", engine)
    graph, policy = read_engine(path), Policy(path, threads=1)
    for text in ("...", " ", "?!"):
        with pytest.raises(InstructionError):
            policy.set_instruction(text)
        with pytest.raises(InstructionError, match="0 words"):
            instruction_context(graph, text)
    policy.set_instruction("go")
    assert len(instruction_context(graph, "go")) == 3


@pytest.mark.parametrize(
    "spoil",
    [
        value("normed", shape=[4, 8, 8]),  # in place of [32, 8]
        both(role("norm", "inputs", x="tokens"), value("normed", dtype="bf16"), tensor("query.weight", np.float16)),
    ],
    ids=["another shape", "another dtype"],
)
def test_in_place_is_for_the_same_type_alone(tmp_path: Path, spoil: Callable[[Engine], None]) -> None:
    engine = small_engine()
    spoil(engine)
    path = write_engine(tmp_path / "place.lwam", engine)
    assert by_runtime(path) is not None and by_check_graph(path) is not None
