# SPDX-License-Identifier: Apache-2.0
"""What a file may ask for is bounded: memory beside its blocks, operations, inputs. And no overflow hides in a norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.engine_files import Engine, bfloat16_bits, write_engine
from helpers.hostile_files import refused
from lightwam.engine.file import read_engine
from lightwam.engine.interpret import Interpreter
from lightwam.engine.verify import check_graph
from lightwam.errors import EngineError, ExportError
from lightwam.runtime import Policy

EMPTY = {"arena_bytes": 0, "values": [], "outputs": {}, "ops": []}


def op(kind: str, inputs: dict[str, str], output: str, constants: dict[str, str] | None = None, **attrs: Any) -> Any:
    names = {"inputs": inputs, "constants": constants or {}, "outputs": {"y": output}}
    return {"op": kind, "name": output, "stage": "expert", "attrs": attrs, **names}


def engine(latents: list[int], values: dict[str, tuple[str, list[int]]], ops: list[Any], **tensors: Any) -> Engine:
    """Latents [C, h, w] -> pixels [h, w, C] -> ops -> actions; values apart from each other."""
    channels, height, width = latents
    values = {"pixels": ("f32", [height, width, channels]), **values}
    entries: list[dict[str, Any]] = [{"name": "latents", "dtype": "f32", "shape": latents, "storage": "input"}]
    end = 0
    for name, (dtype, shape) in values.items():
        entries.append({"name": name, "dtype": dtype, "shape": shape, "storage": "arena", "offset": end})
        end += (int(np.prod(shape)) * (4 if dtype == "f32" else 2) + 63) // 64 * 64
    horizon, action_width = values["actions"][1]
    sizes = {"state_width": 1, "action_width": action_width, "horizon": horizon, "replan": 1}
    text: dict[str, Any] = {"context_rows": 1, "text_width": 1, "prompt_template": "{task}", "text_encoder": None}
    policy = {"starts_at": "latents", "canvas": None, "cameras": [], "latent_shape": latents, **sizes, **text}
    policy |= {"instructions": [], "normalizer": {}, "gripper": None, "control_hz": 20}
    layout = op("nchw_to_nhwc", {"x": "latents"}, "pixels")
    act = {"arena_bytes": end, "values": entries, "outputs": {"actions": "actions"}, "ops": [layout, *ops]}
    document = {"format": "lightwam-engine", "format_version": 1, "name": "bounds", "precision": "f32"}
    document |= {"policy": policy, "programs": {"set_instruction": EMPTY, "act": act}}
    return Engine(document | {"instruction_bytes": 0, "provenance": {}}, tensors)


AFFINE = {"scale": "one", "shift": "zero"}


def actions_of(x: str) -> Any:
    return op("scale_shift_clamp", {"x": x}, "actions", AFFINE, minimum=None, maximum=None)


def affine(width: int) -> dict[str, Any]:
    return {"one": np.ones(width, "f4"), "zero": np.zeros(width, "f4")}


def refused_by_both(path: Path, message: str) -> None:
    refused(path, message)
    with pytest.raises(ExportError):
        check_graph(read_engine(path))


def test_scratch_memory_of_a_pooling(tmp_path: Path) -> None:
    """A file of 50 kB, and 1.6 GB of scores."""
    tokens, queries = 100_000, 4_000
    values = {"pool": ("f32", [1, queries, 1]), "actions": ("f32", [queries, 1])}
    constants = {"scores": "scores", "merge": "merge"}
    pool = op("learned_query_pool", {"x": "pixels"}, "pool", constants, heads=queries, queries=1, eps=1e-5)
    tensors = {"scores": np.ones((queries, 1), "f4"), "merge": np.ones((1, 1), "f4"), **affine(1)}
    hostile = engine([1, 1, tokens], values, [pool, actions_of("pool")], **tensors)
    path = write_engine(tmp_path / "pool.lwam", hostile)
    refused(path, r"op 'pool' \(learned_query_pool\) needs \d+ bytes of scratch memory; expected at most \d+ beside")
    pool["attrs"]["heads"] = 4
    hostile.value("pool")["shape"] = hostile.value("actions")["shape"] = [1, 4, 1]
    hostile.value("actions")["shape"] = [4, 1]
    hostile.tensors["scores"] = np.ones((4, 1), "f4")
    hostile.document["policy"]["horizon"] = 4
    Policy(write_engine(path, hostile), threads=1)


def test_scratch_memory_of_a_convolution(tmp_path: Path) -> None:
    """A window of 2 MB, of which a block of rows copies 400: pairs of bf16 do not fit into its rows."""
    image, window = 1020, 999
    side = image - window + 1
    values = {
        "half": ("bf16", [image, image, 1]),
        "map": ("f32", [side, side, 1]),
        "actions": ("f32", [side * side, 1]),
    }
    padding: dict[str, Any] = {"stride": 1, "padding": [0, 0, 0, 0], "activation": "none"}
    ops = [op("cast", {"x": "pixels"}, "half"), op("conv2d", {"x": "half"}, "map", {"weight": "weight"}, **padding)]
    weight = bfloat16_bits(np.ones((1, window, window, 1), np.float32))
    hostile = engine([1, image, image], values, [*ops, actions_of("map")], weight=weight, **affine(1))
    refused(write_engine(tmp_path / "window.lwam", hostile), r"op 'map' \(conv2d\) needs \d+ bytes of scratch memory")


def attention_of(tokens: int, width: int) -> Engine:
    values = {"y": ("f32", [tokens, width]), "actions": ("f32", [tokens, width])}
    roles = dict.fromkeys("qkv", "pixels")
    ops = [op("self_attention", roles, "y", heads=1, scale=1.0), actions_of("y")]
    return engine([width, 1, tokens], values, ops, **affine(width))


def test_operations_are_bounded(tmp_path: Path) -> None:
    hostile = attention_of(1 << 20, 64)
    path = write_engine(tmp_path / "work.lwam", hostile)
    refused_by_both(path, r"program 'act' needs 2.99e\+14 operations, op 'y' \(self_attention\) alone 2.99e\+14; exp")


def test_operations_of_many_small_ops_are_counted_together(tmp_path: Path) -> None:
    hostile = attention_of(1 << 17, 64)  # 5e12 each
    attention = hostile.op("y")
    for number in range(25):
        name = f"more {number}"
        hostile.act["values"].append(hostile.value("y") | {"name": name, "offset": hostile.act["arena_bytes"]})
        hostile.act["arena_bytes"] += 4 * 64 << 17
        hostile.act["ops"].append(attention | {"name": name, "outputs": {"y": name}})
    refused_by_both(write_engine(tmp_path / "work.lwam", hostile), r"program 'act' needs 1\.2\d*e\+14 operations")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_shape": [1 << 16, 1 << 16, 2]}, "'latent_shape' has more than"),
        ({"context_rows": 1 << 20, "text_width": 1 << 20}, "'context_rows' times 'text_width'"),
    ],
)
def test_inputs_are_bounded(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    hostile = attention_of(16, 8)
    hostile.document["policy"] |= changes
    refused(write_engine(tmp_path / "inputs.lwam", hostile), message)


def norm_of(kind: str, dtype: str, width: int = 24) -> Engine:
    """Rows of [4, width], normed, as actions."""
    shape = [4, width]
    values = {"x": (dtype, shape), "y": (dtype, shape), "actions": ("f32", shape)}
    tensors = affine(width) | {"cos": np.ones((4, width // 2), "f4"), "sin": np.zeros((4, width // 2), "f4")}
    constants = {"rms_norm": {"weight": "one"}, "layer_norm": {}}.get(
        kind, {"weight": "one", "cos": "cos", "sin": "sin"}
    )
    attrs = {"rms_norm": {"activation": "none"}, "layer_norm": {}}.get(kind, {"heads": 1})
    copy = {"scale": "one", "shift": "zero"}
    ops = [
        op("scale_shift_clamp", {"x": "pixels"}, "x", copy, minimum=None, maximum=None),
        op(kind, {"x": "x"}, "y", constants, eps=1e-6, **attrs),
        actions_of("y"),
    ]
    return engine([width, 1, 4], values, ops, **tensors)


@pytest.mark.parametrize("kind", ["rms_norm", "layer_norm", "rms_norm_rope"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("size", [1.8e19, 2e19, 1e20, 1e30, 3e38])
def test_no_row_that_overflows_becomes_zeros(tmp_path: Path, kind: str, dtype: str, size: float) -> None:
    """Of +-size: the norm is +-1, or the policy says that an action is not finite."""
    path = write_engine(tmp_path / "norm.lwam", norm_of(kind, dtype))
    latents = np.full((24, 1, 4), size, np.float32)
    latents[::2] *= -1
    seen = {"state": np.zeros(1, np.float32), "latents": latents}
    try:
        actions = Policy(path, threads=1).infer(seen).actions
    except EngineError as error:
        assert "computed the action [0, 0] as" in str(error) and size > 1e19
    else:
        np.testing.assert_allclose(np.abs(actions), 1, atol=0.01)
    expected = Interpreter(read_engine(path))
    expected.set_instruction(np.zeros((1, 1), np.float32))
    np.testing.assert_allclose(np.abs(expected.act(seen["state"], latents)), 1, atol=0.01)


@pytest.mark.parametrize("kind", ["rms_norm", "layer_norm", "rms_norm_rope"])
def test_the_interpreter_in_float32_does_not_overflow(tmp_path: Path, kind: str) -> None:
    import torch

    graph = read_engine(write_engine(tmp_path / "norm.lwam", norm_of(kind, "f32")))
    latents = np.where(np.arange(24) % 2, 1e30, -1e30).astype(np.float32)[:, None, None].repeat(4, 2)
    interpreter = Interpreter(graph, torch.float32)
    interpreter.set_instruction(np.zeros((1, 1), np.float32))
    np.testing.assert_allclose(np.abs(interpreter.act(np.zeros(1, np.float32), latents)), 1, atol=1e-5)
