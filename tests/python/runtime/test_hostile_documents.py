# SPDX-License-Identifier: Apache-2.0
"""Documents that say something impossible: each case spoils one thing of a good engine and names the message."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.engine_files import TASK, Engine, observation, small_engine, write_engine
from helpers.hostile_files import (
    Spoil,
    add_values,
    attrs,
    bias_of_another_op,
    both,
    both_values,
    camera,
    counts_of_rows,
    document,
    move_op,
    op,
    refused,
    role,
    tensor,
    value,
)
from lightwam.runtime import Policy

ACT = "programs.act"
#: The attention of the good engine in the folded form: values [6, 8] are outputs of 2 heads and 4 columns.
FOLDED = both(
    op("attention", op="cross_attention_folded"),
    role("attention", "inputs", value_text=..., output_text="value"),
)


def to_f16(values: NDArray[Any]) -> NDArray[np.float16]:
    return values.astype(np.float16)


def folded_shapes(engine: Engine) -> None:
    """What the folded attention writes, [32, 4], brought to the width of its reader."""
    add_values("folded", shape=[32, 4])(engine)
    engine.op("attention")["outputs"]["y"] = "folded"
    inputs, outputs = {"x.0": "folded", "x.1": "folded"}, {"y": "attended"}
    joined = {"op": "concat", "name": "joined", "stage": "backbone", "inputs": inputs, "outputs": outputs}
    ops = engine.act["ops"]
    ops.insert(ops.index(engine.op("attention")) + 1, joined | {"constants": {}, "attrs": {}})


DOCUMENTS: list[tuple[str, Spoil, str]] = [
    ("foreign format", document("format", "onnx"), "'format' is 'onnx'"),
    ("no format", document("format", ...), "'format' is missing"),
    ("newer version", document("format_version", 2), "reads version 1: install a newer lightwam"),
    ("older version", document("format_version", 0), "export the policy again"),
    ("version no integer", document("format_version", 1.5), "expected an integer"),
    ("version a string", document("format_version", "1"), "is a string; expected an integer"),
    ("no name", document("name", ...), "'name' is missing"),
    ("precision", document("precision", "int4"), "expected f32, bf16, f16, int8 or fp8"),
    ("no provenance", document("provenance", ...), "'provenance' is missing"),
    ("instruction block too large", document("instruction_bytes", 2**35), "expected 0 to"),
    ("negative block", document("instruction_bytes", -1), "expected 0 to"),
    ("arena too large", document(f"{ACT}.arena_bytes", 2**40), "expected 0 to"),
    ("no programs", document("programs", ...), "'programs' is missing"),
    ("no act", document("programs.act", ...), "'act' is missing"),
    ("extra program", document("programs.train", {}), "key 'train' is unknown"),
    ("extra program key", document(f"{ACT}.code", "x"), "key 'code' is unknown"),
    ("ops no list", document(f"{ACT}.ops", {}), "'ops' is an object; expected a list"),
    ("op no object", document(f"{ACT}.ops.0", 3), "is a number; expected an object"),
    ("value no object", document(f"{ACT}.values.0", "x"), "is a string; expected an object"),
    ("control characters", document("precision", "a\nb\x00"), r"'precision' is 'a\\nb\\x00'"),
    ("long text", document("precision", "x" * 100_000), r"\.\.\."),
    # policy
    ("no policy", document("policy", ...), "'policy' is missing"),
    ("start", document("policy.starts_at", "sound"), "expected images or latents"),
    ("canvas missing", document("policy.canvas", None), "'canvas' is missing or not a list"),
    ("canvas too small", document("policy.canvas", [0, 16]), "'canvas' must be"),
    ("canvas for latents", document("policy.starts_at", "latents"), "'canvas' is a list; expected null"),
    ("horizon zero", document("policy.horizon", 0), "'horizon' is 0"),
    ("horizon differs", document("policy.horizon", 5), r"output 'actions' is f32 \[4, 3\]; expected f32 \[5, 3\]"),
    ("replan over horizon", document("policy.replan", 5), "'replan' is 5; expected 1 to 4"),
    ("state width", document("policy.state_width", 6), r"input 'state' is f32 \[1, 5\]; expected f32 \[1, 6\]"),
    ("huge width", document("policy.action_width", 2**62), "expected 1 to"),
    ("latent shape", document("policy.latent_shape", [3, 8]), "'latent_shape' must be"),
    ("no template", document("policy.prompt_template", "do it"), "{task} in it once"),
    ("two tasks", document("policy.prompt_template", "{task}{task}"), "{task} in it once"),
    ("encoder kind", document("policy.text_encoder.kind", "umt5"), "kind 'umt5' is unknown"),
    ("encoder tensor", document("policy.text_encoder.embedding", "nothing"), "names the tensor 'nothing'"),
    ("encoder shape", document("policy.text_encoder.embedding", "state.weight"), r"expected \[rows, 8\]"),
    ("encoder rows", document("policy.text_encoder.position", "text.embedding"), "has 16 rows; expected 6"),
    ("context rows", document("policy.context_rows", 7), "expected 7|'position' has 6 rows"),
    ("instruction rows", document("policy.instructions.0.context", "text.embedding"), "16 rows; expected at most 6"),
    ("instruction tensor", document("policy.instructions.0.context", "no"), "names the tensor 'no'"),
    ("instruction no object", document("policy.instructions.0", "x"), "instruction 0 is a string; expected an object"),
    ("instructions an object", document("policy.instructions", {}), "'instructions' is an object; expected a list"),
    ("control rate negative", document("policy.control_hz", -20), "'control_hz' is -20.0+; expected a positive"),
    ("control rate zero", document("policy.control_hz", 0), "'control_hz' is 0.0+; expected a positive"),
    ("control rate a text", document("policy.control_hz", "20"), "'control_hz' is a string; expected a positive"),
    ("instruction empty", document("policy.instructions.0.text", ""), "'text' is empty"),
    ("instruction twice", document("policy.instructions", [{"text": TASK, "context": "instruction.0"}] * 2), "twice"),
    ("no cameras", document("policy.cameras", []), "cover 0 pixels"),
    ("many cameras", document("policy.cameras", [{}] * 65), "more than 64 cameras"),
    ("camera no object", document("policy.cameras.0", "x"), "is a string; expected an object"),
    ("camera twice", camera(1, name="agentview"), "the name 'agentview' is there twice"),
    ("camera unnamed", camera(1, name=""), "'name' is empty"),
    ("camera outside", camera(1, rect=[0, 9, 8, 8]), "outside the canvas"),
    ("camera far outside", camera(1, rect=[0, 2**62, 8, 8]), "'rect' holds"),
    ("camera negative", camera(1, rect=[-1, 8, 8, 8]), "'rect' holds -1"),
    ("camera empty", camera(1, rect=[0, 8, 0, 8]), "is empty or outside"),
    ("cameras overlap", camera(1, rect=[0, 7, 8, 8]), "'wrist' overlaps camera 'agentview'"),
    ("cameras leave a gap", camera(1, rect=[0, 8, 8, 7]), "cover 120 pixels of the canvas; expected all 128"),
    ("camera rect short", camera(1, rect=[0, 8, 8]), "must be"),
    ("camera rotation", camera(1, rotate_180=1), "expected a boolean"),
    # values
    ("value twice", lambda engine: engine.act["values"].append(engine.value("pooled")), "'pooled' is there twice"),
    ("value dtype", value("pooled", dtype="f64"), "dtype 'f64' is unknown"),
    ("value storage", value("pooled", storage="disk"), "storage 'disk' is unknown"),
    ("value key", value("pooled", code=1), "key 'code' is unknown"),
    ("value shape", value("pooled", shape=[0]), "out of range"),
    ("value overflow", value("pooled", shape=[2**40, 2**40]), "out of range"),
    ("value unaligned", value("query", offset=32), "not a multiple of 64"),
    ("value outside", value("chunk", offset=2**33), "outside the block"),
    ("value negative", value("chunk", offset=-64), "expected 0 to"),
    ("input with offset", value("state", offset=0), "expected none for an input"),
    ("input unknown", value("state", name="secret"), "which is not there|'secret' is unknown"),
    ("instruction value moved", value("key", offset=64), "set_instruction writes"),
    ("instruction value retyped", value("key_bias", shape=[2, 3]), "shape|set_instruction writes"),
    ("instruction value outside", document("instruction_bytes", 64), "outside the block of 64"),
    ("instruction values overlap", both_values("value", offset=0), "over 'key', which is still in use"),
    # ops
    ("op unknown", op("pool", op="max_pool"), "op 'max_pool' is unknown"),
    ("op key", op("pool", code="x"), "key 'code' is unknown"),
    ("op stage", op("pool", stage="gpu"), "stage 'gpu' is unknown"),
    ("op without name", document(f"{ACT}.ops.0.name", ...), "'name' is missing"),
    ("role missing", role("pool", "inputs", x=...), "input 'x' is missing"),
    ("role extra", role("pool", "inputs", z="state"), "input 'z' is not one of this op"),
    ("role unknown value", role("pool", "inputs", x="nothing"), "names the value 'nothing'"),
    ("role no string", role("pool", "inputs", x=3), "expected a string"),
    ("output missing", role("pool", "outputs", y=...), "output 'y' is missing"),
    ("output extra", role("pool", "outputs", z="chunk"), "output 'z' is not one of this op"),
    ("constant missing", role("state", "constants", weight=...), "constant 'weight' is missing"),
    ("constant extra", role("state", "constants", scale="state.bias"), "constant 'scale' is not one of this op"),
    ("constant unknown", role("state", "constants", bias="nothing"), "names the tensor 'nothing'"),
    ("bias shape", role("state", "constants", bias="action.bias"), r"'bias' has shape \[12\]; expected \[8\]"),
    ("weight shape", role("state", "constants", weight="query.weight"), r"\[8, 8\]; expected \[8, 5\]"),
    ("weight rank", role("state", "constants", weight="conv.weight"), "expected 2 dimensions"),
    ("attribute missing", lambda engine: engine.op("norm")["attrs"].pop("eps"), "attribute 'eps' is missing"),
    ("attribute extra", attrs("norm", heads=2), "attribute 'heads' is not one of this op"),
    ("activation", attrs("norm", activation="relu"), "activation 'relu' is unknown"),
    ("eps zero", attrs("norm", eps=0), "'eps' is 0.000000; expected a positive"),
    ("eps negative", attrs("norm", eps=-1e-6), "expected a positive"),
    ("eps too small for f32", attrs("norm", eps=1e-60), "expected a positive"),
    ("eps too large for f32", attrs("norm", eps=1e300), "expected a positive"),
    ("eps no number", attrs("norm", eps="1"), "expected a number"),
    ("scale negative", attrs("attention", scale=-0.5), "expected a positive"),
    ("heads zero", attrs("attention", heads=0), "'heads' is 0"),
    ("heads do not divide", attrs("attention", heads=3), "heads 3 does not divide"),
    ("stride zero", attrs("conv", stride=0), "'stride' is 0"),
    ("stride list", attrs("conv", stride=[2, 2]), "expected an integer"),
    ("stride", attrs("conv", stride=1), r"'y' has shape \[4, 8, 8\]; expected \[7, 15, 8\]"),
    ("padding short", attrs("conv", padding=[0, 0, 1]), "padding has 3 numbers"),
    ("padding negative", attrs("conv", padding=[-1, 0, 1, 1]), "padding -1 is out of range"),
    ("padding huge", attrs("conv", padding=[0, 0, 2**40, 1]), "out of range"),
    ("gripper column", attrs("gripper", column=3), "'column' is 3; expected 0 to 2"),
    ("bounds", attrs("denormalise", minimum=3.0), "minimum is greater"),
    ("bound no number", attrs("denormalise", minimum="-1"), "expected a number or null"),
    ("folded: output shape", FOLDED, r"'y' has shape \[32, 8\]; expected \[32, 4\]"),
    ("folded: values for outputs", op("attention", op="cross_attention_folded"), "input 'output_text' is missing"),
    ("folded: outputs of one row", both(FOLDED, role("attention", "inputs", output_text="key_bias")), r"\[6, 6\] as a"),
    ("folded: heads", both(FOLDED, attrs("attention", heads=3)), "heads 3 does not divide"),
    ("folded: key alone", both(FOLDED, role("attention", "inputs", key_proprio="query")), "come together; one is miss"),
    ("folded: bias", both(FOLDED, role("attention", "constants", bias="state.bias")), r"\[8\]; expected \[4\]"),
    ("folded: residual", both(FOLDED, role("attention", "inputs", residual="query")), r"expected \[32, 4\]"),
    ("output shape", value("query", shape=[31, 8]), r"'y' has shape \[31, 8\]; expected \[32, 8\]"),
    ("attention value shape", both_values("value", shape=[5, 8]), r"expected \[6, 8\]"),
    ("key count a float", both_values("key_count", dtype="f32"), "is f32; expected i32"),
    ("float input an integer", value("query", dtype="i32"), "is i32; expected f32, bf16 or f16"),
    ("f16 input, f32 weight", both(value("normed", dtype="f16", offset=0)), "'weight' is f32; expected f16"),
    ("f32 input, f16 weight", tensor("query.weight", to_f16), "'weight' is f16; expected f32 or bf16, since input 'x'"),
    ("f16 as a norm's weight", tensor("norm.weight", to_f16), "is f16; expected f32"),
    ("f16 context", tensor("instruction.0", to_f16), "is f16; expected f32 or bf16"),
    ("bf16 input, f32 weight", both(value("normed", dtype="bf16", offset=0)), "'weight' is f32; expected bf16"),
    ("reshape elsewhere", value("tokens", offset=2048), "does not lie on the bytes"),
    ("reshape retyped", value("tokens", dtype="bf16", shape=[64, 8]), "is bf16; expected f32"),
    (
        "reshape of an input",
        both(add_values("flat", shape=[5]), role("chunk", "inputs", x="state")),
        "not in the arena",
    ),
    ("two preprocessings", lambda engine: engine.act["ops"].append(engine.act["ops"][0]), "second time|has 2 ops"),
    ("no preprocessing", lambda engine: engine.act["ops"].pop(0), "has 0 ops 'preprocess_images'"),
    ("canvas shape", value("canvas", shape=[16, 8, 3]), r"expected \[8, 16, 3\]"),
    # outputs, order and lifetimes
    ("no actions", document(f"{ACT}.outputs", {}), "must hold 'actions'"),
    ("other outputs", document(f"{ACT}.outputs", {"actions": "actions", "x": "pooled"}), "and nothing else"),
    ("actions unknown", document(f"{ACT}.outputs", {"actions": "nothing"}), "names the value 'nothing'"),
    ("actions never written", lambda engine: engine.act["ops"].pop(), "'actions' is never written"),
    ("set_instruction outputs", document("programs.set_instruction.outputs", {"k": "key"}), "'outputs' is not empty"),
    ("read before write", move_op("pool", 1), "reads 'attended' before any op writes it"),
    ("written twice", lambda engine: engine.act["ops"].insert(6, engine.op("query")), "'query' a second time"),
    ("instruction value not written", lambda engine: engine.set_instruction["ops"].pop(0), "not written by set_instr"),
    ("act writes an instruction value", role("query", "outputs", y="key"), "expected|read-only"),
    ("writes an input", role("state", "outputs", y="state"), "expected|read-only"),
    ("in place where not allowed", value("query", offset=1536), "over 'normed', which is still in use"),
    ("overlap by a part", value("query", offset=1600), "over 'normed', which is still in use"),
    ("in place, read again", role("pool", "inputs", x="tokens"), "'normed' over 'features', which is still in use"),
    (
        "in place through two roles",
        both(value("query", offset=1536), role("query", "inputs", residual="normed")),
        "'query' over 'normed', which is still in use",
    ),
    # who wrote it
    (
        "text rows of another op",
        both(counts_of_rows, role("bias", "inputs", text_rows="mean.zero")),
        r"'text_rows' is 'mean.zero', 'zero' of op 'mean in 8 bits' \(quantize_rows\); expected the input",
    ),
    (
        "key count of another op",
        both(counts_of_rows, role("attention", "inputs", key_count="state.zero")),
        "'key_count' is 'state.zero'.*; expected 'key_count' of an op text_key_bias",
    ),
    (
        "key count of another op of set_instruction",
        both(counts_of_rows, role("attention", "inputs", key_count="mean.zero")),
        "'key_count' is 'mean.zero'.*; expected 'key_count' of an op text_key_bias",
    ),
    (
        "key count of another op, folded",
        both(FOLDED, folded_shapes, counts_of_rows, role("attention", "inputs", key_count="state.zero")),
        "'key_count' is 'state.zero'.*; expected 'key_count' of an op text_key_bias",
    ),
    ("key bias of another op", bias_of_another_op, "'key_bias' is 'bias', 'y' of op 'twice'"),
    ("output over an input", value("attended", offset=2560), "over 'query', which is still in use"),
]


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in DOCUMENTS], ids=[case[0] for case in DOCUMENTS])
def test_documents(tmp_path: Path, spoil: Spoil, message: str) -> None:
    engine = small_engine()
    spoil(engine)
    refused(write_engine(tmp_path / "bad.lwam", engine), message)


def test_the_good_engine_loads(tmp_path: Path) -> None:
    for images in (True, False):
        Policy(write_engine(tmp_path / "good.lwam", small_engine(images=images)), threads=1)


@pytest.mark.parametrize("change", [counts_of_rows, both(FOLDED, folded_shapes)], ids=["counts", "folded"])
def test_the_ground_of_other_spoils_loads(tmp_path: Path, change: Spoil) -> None:
    engine = small_engine()
    change(engine)
    Policy(write_engine(tmp_path / "good.lwam", engine), threads=1)


def test_memory_reuse_that_is_allowed(tmp_path: Path) -> None:
    """The verifier is strict, not timid: bytes of dead values may be used again."""
    engine = small_engine()
    expected_path = write_engine(tmp_path / "a.lwam", engine)
    reused = copy.deepcopy(engine)
    reused.value("attended")["offset"] = 1536  # where 'normed' was, which 'query' has read for the last time
    path = write_engine(tmp_path / "b.lwam", reused)
    results = []
    for each in (expected_path, path):
        policy = Policy(each, threads=1)
        policy.set_instruction(TASK)
        results.append(policy.infer(observation()).actions)
    np.testing.assert_array_equal(results[0], results[1])
