# SPDX-License-Identifier: Apache-2.0
"""Launch plans that say something impossible are refused on every device, the processor included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.engine_files import TASK, Engine, observation, quantised, small_engine, write_engine
from helpers.gpu_plans import small_gpu_engine, small_linear_engine
from helpers.hostile_files import Spoil, both, document, refused
from lightwam.runtime import Policy

GPU, ACT, TEXT = "gpu", "gpu.programs.act", "gpu.programs.set_instruction"
TACTIC = "gpu.tasks.0.tactics.sm_87.0"


def buffer(name: str, program: str = "act", /, **fields: Any) -> Spoil:
    def spoil(engine: Engine) -> None:
        buffers = engine.document["gpu"]["programs"][program]["buffers"]
        next(entry for entry in buffers if entry["name"] == name).update(fields)

    return spoil


def argument(launch: int, index: int, value: Any) -> Spoil:
    return document(f"{ACT}.launches.{launch}.arguments.{index}", value)


def drop_launch(program: str, index: int) -> Spoil:
    return lambda engine: engine.document["gpu"]["programs"][program]["launches"].pop(index)


def extra_key(path: str) -> Spoil:
    return document(f"{path}.code", "x")


def image_of_floats(engine: Engine) -> None:
    engine.document["gpu"]["images"]["sm_87"] = "conv.weight"


def append_buffer(program: str, /, **fields: Any) -> Spoil:
    def spoil(engine: Engine) -> None:
        entry = {"name": "more", "space": "arena", "offset": 0, "bytes": 32} | fields
        engine.document["gpu"]["programs"][program]["buffers"].append(entry)

    return spoil


PLANS: list[tuple[str, Spoil, str]] = [
    ("no object", document(GPU, []), "launch plan is a list; expected an object"),
    ("extra key", extra_key(GPU), "key 'code' is unknown"),
    ("newer", document(f"{GPU}.plan_version", 2), "install a newer lightwam"),
    ("older", document(f"{GPU}.plan_version", 0), "run 'lightwam compile' again"),
    ("no version", document(f"{GPU}.plan_version", ...), "'plan_version' is missing"),
    ("weights too large", document(f"{GPU}.weights_bytes", 2**40), "'weights_bytes' is .*; expected 0 to"),
    # images
    ("no image", document(f"{GPU}.images", {}), "'images' is empty"),
    ("target", document(f"{GPU}.images", {"gfx90": "gpu.sm_87"}), "image 'gfx90': expected a target as 'sm_87'"),
    ("target without number", document(f"{GPU}.images", {"sm_8x": "gpu.sm_87"}), "expected a target as"),
    ("target twice", document(f"{GPU}.images", {"sm_87": "gpu.sm_87", "sm_087": "gpu.sm_110"}), "image 'sm_087'"),
    ("image not there", document(f"{GPU}.images.sm_87", "x"), "names the tensor 'x', which is not there"),
    ("image no text", document(f"{GPU}.images.sm_87", 3), "is a number; expected a tensor's name"),
    ("image of floats", image_of_floats, "tensor 'conv.weight', f32; expected i8"),
    ("image twice", document(f"{GPU}.images.sm_110", "gpu.sm_87"), "which holds another image"),
    # weights
    ("weight not there", document(f"{GPU}.weights.0.tensor", "x"), "names the tensor 'x'"),
    ("weight is an image", document(f"{GPU}.weights.0.tensor", "gpu.sm_87"), "which holds machine code"),
    ("weight not aligned", document(f"{GPU}.weights.1.offset", 164), "offset 164; expected a multiple of 16"),
    ("weight past the end", document(f"{GPU}.weights.1.offset", 176), "bytes 176 to 208 of a block of 192"),
    ("weights overlap", document(f"{GPU}.weights.1.offset", 144), "bytes 144 to 176 overlap another weight"),
    ("weight extra key", extra_key(f"{GPU}.weights.0"), "weight 0: key 'code' is unknown"),
    # tasks
    ("product type", document(f"{GPU}.tasks.0.product_type", "f64"), "'product_type' is 'f64'"),
    ("flops", document(f"{GPU}.tasks.0.flops", -1), "'flops' is -1"),
    ("mode", document(f"{GPU}.tasks.0.arguments.0.mode", "rw"), "'mode' is 'rw'; expected r or w"),
    ("argument of no byte", document(f"{GPU}.tasks.0.arguments.0.bytes", 0), "'bytes' is 0; expected 1 to"),
    ("writes a frame", document(f"{GPU}.tasks.1.arguments.0.mode", "w"), "'bytes' is null, but it is written"),
    ("task extra key", extra_key(f"{GPU}.tasks.0"), "key 'code' is unknown"),
    ("no tactic", document(f"{GPU}.tasks.0.tactics.sm_87", []), "has no tactic for sm_87"),
    ("no target", document(f"{GPU}.tasks.0.tactics.sm_110", ...), "'sm_110' is missing"),
    ("other target", document(f"{GPU}.tasks.0.tactics.sm_90", []), "has tactics for 3 targets; 'images' has 2"),
    ("no entry", document(f"{TACTIC}.entry", ""), "'entry' is empty"),
    ("code past the end", document(f"{TACTIC}.offset", 4900), "its machine code is bytes 4900 to"),
    ("code of no byte", document(f"{TACTIC}.bytes", 0), "'bytes' is 0; expected 1 to"),
    ("grid zero", document(f"{TACTIC}.grid", [0, 1, 1]), r"grid \[0, 1, 1\] is out of range"),
    ("grid too tall", document(f"{TACTIC}.grid", [1, 65536, 1]), r"grid \[1, 65536, 1\] is out of range"),
    ("grid of two", document(f"{TACTIC}.grid", [1, 1]), r"'grid' must be \[x, y, z\]"),
    ("threads", document(f"{TACTIC}.threads", 48), "'threads' is 48; expected a multiple of 32"),
    ("too many threads", document(f"{TACTIC}.threads", 2048), "'threads' is 2048; expected 32 to 1024"),
    ("shared memory", document(f"{TACTIC}.shared", 300_000), "'shared' is 300000"),
    ("registers", document(f"{TACTIC}.registers", 256), "'registers' is 256"),
    # buffers
    ("arena too large", document(f"{ACT}.arena_bytes", 2**40), "'arena_bytes' is"),
    ("space", buffer("seen", space="texture"), "'space' is 'texture'"),
    ("name twice", buffer("mixed", name="seen"), "buffer 'seen' is there twice"),
    ("not aligned", buffer("mixed", offset=64), "offset 64; expected a multiple of 256"),
    ("past the arena", buffer("mixed", offset=512), "bytes 512 to 544 of a block of 512"),
    ("size null", buffer("mixed", bytes=None), "only a camera's frame may be of any size"),
    ("past the instruction", buffer("keys", offset=64_000), "of a block of"),
    ("instruction not aligned", buffer("keys", offset=32), "offset 32; expected a multiple of 64"),
    ("input unknown", buffer("state", name="joints"), "buffer 'joints': this input is unknown"),
    ("camera unknown", buffer("frames.wrist", name="frames.top"), "this input is unknown"),
    ("latents of images", buffer("state", name="latents"), "this input is unknown"),
    ("context in act", buffer("state", name="context"), "this input is unknown"),
    ("input size", buffer("state", bytes=24), "'bytes' is 24; expected 20"),
    ("frame size", buffer("frames.wrist", bytes=300), "'bytes' is 300; expected null"),
    ("input offset", buffer("state", offset=16), "offset 16; expected 0"),
    ("text input size", buffer("context", "set_instruction", bytes=196), "'bytes' is 196; expected 192"),
    ("output unknown", buffer("actions", name="torques"), "this output is unknown"),
    ("output size", buffer("actions", bytes=96), "'bytes' is 96; expected 48"),
    ("output of text", append_buffer("set_instruction", name="actions", space="output"), "this output is unknown"),
    # launches
    ("stage", document(f"{ACT}.launches.0.stage", "sleep"), "stage 'sleep' is unknown"),
    ("task", document(f"{ACT}.launches.0.task", 5), "'task' is 5; expected 0 to 4"),
    ("other task", document(f"{ACT}.launches.0.task", 2), "has 4 arguments; its task has 6"),
    ("buffer index", argument(0, 2, ["b", 9, 0]), "names buffer 9 of 9"),
    ("buffer negative", argument(0, 2, ["b", -1, 0]), "no index or offset in range"),
    ("argument form", argument(0, 2, ["w", 0, 0]), r'must be \["b", buffer, offset\] or \["w", offset\]'),
    ("argument no list", argument(0, 2, 7), "an argument must be"),
    ("argument not aligned", argument(1, 2, ["w", 8]), "offset 8; expected a multiple of 16"),
    ("argument past the buffer", argument(1, 1, ["b", 5, 16]), "is bytes 16 to 48 of buffer 'seen', which has 32"),
    ("argument past the weights", argument(1, 2, ["w", 48]), "is bytes 48 to 208 of the weights, which has 192"),
    ("frame for bytes", argument(1, 1, ["b", 0, 0]), "do not go together"),
    ("bytes for a frame", argument(0, 0, ["b", 5, 0]), "do not go together"),
    ("frame inside", argument(0, 0, ["b", 0, 16]), "do not go together"),
    # order
    ("never written", drop_launch("act", 0), "reads bytes 0 to 32 of buffer 'seen' before anything writes"),
    ("too late", argument(1, 1, ["b", 7, 0]), "reads bytes 0 to 32 of buffer 'doubled' before"),
    ("instruction never written", drop_launch("set_instruction", 0), "reads bytes 0 to 192 of buffer 'keys' before"),
    ("instruction half written", buffer("keys", offset=128), "reads bytes 0 to 192 of buffer 'keys' before"),
    ("weight without offset", document(f"{GPU}.weights.1.offset", ...), "'offset' is missing"),
    ("weights not filled", lambda e: e.document["gpu"]["weights"].pop(), "of the weights before anything writes"),
    ("writes an input", argument(0, 3, ["b", 3, 0]), "is bytes 0 to 32 of buffer 'state', which has 20"),
    ("writes the instruction", argument(0, 3, ["b", 4, 0]), "writes buffer 'keys', which is read-only here"),
    ("writes the weights", argument(0, 3, ["w", 160]), "writes the weights, which is read-only here"),
    ("writes what it reads", argument(2, 1, ["b", 6, 0]), "argument 'x' has some of the same bytes"),
    ("over a live buffer", buffer("doubled", offset=256), "over buffer 'mixed', which is still in use"),
    ("no actions", lambda e: e.document["gpu"]["programs"]["act"]["launches"].pop(), "'actions' is not written"),
    (
        "no output",
        both(drop_launch("act", 3), lambda e: e.document["gpu"]["programs"]["act"]["buffers"].pop()),
        "has 0 outputs; expected 'actions'",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in PLANS], ids=[case[0] for case in PLANS])
def test_impossible_plans_are_refused(tmp_path: Path, spoil: Spoil, message: str) -> None:
    engine = small_gpu_engine()
    spoil(engine)
    refused(write_engine(tmp_path / "bad.lwam", engine), message)


LINEAR = f"{GPU}.tasks.5.linear"
LINEARS: list[tuple[str, Spoil, str]] = [
    ("no object", document(LINEAR, 1), "linear is a number; expected an object"),
    ("extra key", extra_key(LINEAR), "key 'code' is unknown"),
    ("no rows", document(f"{LINEAR}.rows", ...), "'rows' is missing"),
    ("zero rows", document(f"{LINEAR}.rows", 0), "'rows' is 0; expected 1 to"),
    ("too many", document(f"{LINEAR}.inputs", 2**31), "'inputs' is 2147483648; expected 1 to"),
    ("other rows", document(f"{LINEAR}.rows", 2), "argument 0 is 'x' of 20 bytes; expected 'x' of 40, read"),
    ("other outputs", document(f"{LINEAR}.outputs", 7), "argument 1 is 'weight' of 160 bytes; expected .* of 140"),
    ("format", document(f"{LINEAR}.x", "i8"), "'x' is 'i8'; expected f32, f16 or bf16"),
    ("narrow y", document(f"{LINEAR}.y", "bf16"), "'y' is bf16 where 'x' is f32; expected that or f32"),
    ("narrow x", document(f"{LINEAR}.x", "bf16"), "argument 0 is 'x' of 20 bytes; expected 'x' of 10, read"),
    ("activation", document(f"{LINEAR}.activation", "silu"), "'activation' is 'silu'; expected none or gelu_tanh"),
    ("both", document(f"{LINEAR}.activation", "gelu_tanh"), "has a residual and an activation"),
    ("names", document(f"{GPU}.tasks.5.arguments.0.name", "y"), "argument 0 is 'y' of 20 bytes; expected 'x' of 20"),
    ("bias", document(f"{GPU}.tasks.5.arguments.2.name", "b"), "its task has 5 arguments; expected 4"),
    ("mode", document(f"{GPU}.tasks.5.arguments.3.mode", "w"), "argument 3 is 'residual' of 32 bytes; .* 32, read"),
    ("frame", document(f"{GPU}.tasks.5.arguments.0.bytes", None), "argument 0 is 'x' of unknown bytes"),
    ("another task", document(f"{GPU}.tasks.3.linear", {"rows": 1, "outputs": 8, "inputs": 8, "x": "f32", "y": "f32",
                              "activation": "none"}), "its task has 2 arguments; expected 3"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in LINEARS], ids=[case[0] for case in LINEARS])
def test_a_task_is_the_linear_layer_that_it_says(tmp_path: Path, spoil: Spoil, message: str) -> None:
    engine = small_linear_engine()
    spoil(engine)
    refused(write_engine(tmp_path / "bad.lwam", engine), message)


def test_the_output_has_its_role_s_name_or_its_value_s(tmp_path: Path) -> None:
    engine = small_gpu_engine()
    engine.act["outputs"]["actions"] = "in_units"
    engine.value("actions")["name"] = "in_units"
    engine.op("gripper")["outputs"]["y"] = "in_units"
    for name in ("actions", "in_units"):
        buffer("actions", name=name)(engine)
        Policy(write_engine(tmp_path / f"{name}.lwam", engine), threads=1)
    append_buffer("act", name="actions", space="output", bytes=48)(engine)
    refused(write_engine(tmp_path / "bad.lwam", engine), "buffer 'actions' is not written as a whole")


def test_instruction_buffers_of_one_program_share_no_byte(tmp_path: Path) -> None:
    engine = small_gpu_engine()
    text = engine.document["gpu"]["programs"]["set_instruction"]
    text["buffers"].append({"name": "more", "space": "instruction", "offset": 128, "bytes": 192})
    text["launches"].append(text["launches"][0] | {"arguments": [["b", 0, 0], ["b", 1, 0], ["b", 3, 0]]})
    refused(write_engine(tmp_path / "bad.lwam", engine), "over buffer 'keys', which is still in use")


def test_machine_code_is_no_constant_of_the_graph(tmp_path: Path) -> None:
    engine = quantised(small_gpu_engine())
    engine.document["gpu"]["images"]["sm_87"] = engine.op("query")["constants"]["weight"]
    refused(write_engine(tmp_path / "bad.lwam", engine), "a constant of the graph")


def test_machine_code_does_not_change_the_processor_s_actions(tmp_path: Path) -> None:
    """Bytes of machine code may be -128, which an 8-bit constant may not."""
    gpu = small_gpu_engine()
    assert np.any(gpu.tensors["gpu.sm_87"] == -128)
    chunks = []
    for name, engine in (("gpu", gpu), ("plain", small_engine())):
        policy = Policy(write_engine(tmp_path / f"{name}.lwam", engine), threads=1)
        policy.set_instruction(TASK)
        chunks.append(policy.infer(observation()).actions)
        assert "gpu" not in policy.metadata
    assert np.array_equal(*chunks)
