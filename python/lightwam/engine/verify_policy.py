# SPDX-License-Identifier: Apache-2.0
"""What a graph must have in common with its policy's description, and its programs with each other: inputs, outputs,
the instruction's values, who writes what an op trusts (engine-format.md, sections 2, 3, 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from lightwam.engine.dtypes import EIGHT_BITS
from lightwam.engine.graph import Graph, Op, Program, TensorType, Value
from lightwam.errors import ExportError
from lightwam.files import short

#: The op that writes a value, and as which of its outputs.
Sources = Mapping[str, tuple[Op, str]]


def check_policy(graph: Graph) -> None:
    """Raise `ExportError` on inputs, outputs, context tensors or sources that break a rule of the format."""
    try:
        _check_inputs(graph)
        _check_text(graph)
    except (KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"the policy lacks or mistypes {error}: export it again") from error
    _check_instruction_values(graph)
    text, act = graph.programs["set_instruction"], graph.programs["act"]
    written = _sources(text)
    _check_sources(text, written)
    kept = {name: written[name] for name, value in act.values.items() if value.storage == "instruction"}
    _check_sources(act, {**_sources(act), **kept})


def _check_inputs(graph: Graph) -> None:
    policy, text, act = graph.policy, graph.programs["set_instruction"], graph.programs["act"]
    context = TensorType("f32", (policy["context_rows"], policy["text_width"]))
    _expect_inputs(text, {"context": context, "text_rows": TensorType("i32", (1,))})
    seen = {"state": TensorType("f32", (1, policy["state_width"]))}
    if policy["starts_at"] == "latents":
        seen["latents"] = TensorType("f32", tuple(policy["latent_shape"]))
    _expect_inputs(act, seen)
    images = sum(op.op == "preprocess_images" for op in act.ops)
    if images != (policy["starts_at"] == "images") or any(op.op == "preprocess_images" for op in text.ops):
        raise ExportError(f"act has {images} ops preprocess_images, starting at {policy['starts_at']}: build it anew")
    actions = TensorType("f32", (policy["horizon"], policy["action_width"]))
    if text.outputs or set(act.outputs) != {"actions"}:
        raise ExportError("the one output of the programs must be act's 'actions': build the graph anew")
    found = act.values[act.outputs["actions"]]
    if found.type != actions or found.storage != "arena":
        raise ExportError(f"output actions is {found.type}: it must be {actions} in the arena")


def _expect_inputs(program: Program, expected: Mapping[str, TensorType]) -> None:
    for value in program.values.values():
        if value.storage == "input" and expected.get(value.name) != value.type:
            raise ExportError(f"input {value.name} is {value.type}: it must be one of {_texts(expected)}")


def _texts(types: Mapping[str, TensorType]) -> str:
    return ", ".join(f"{name} {tensor}" for name, tensor in types.items())


def _check_text(graph: Graph) -> None:
    policy = graph.policy
    length, width = policy["context_rows"], policy["text_width"]
    tables: list[tuple[str, range | None]] = [
        (known["context"], range(1, length + 1)) for known in policy["instructions"]
    ]
    if encoder := policy["text_encoder"]:
        tables += [(encoder["embedding"], None), (encoder["position"], range(length, length + 1))]
    for name, rows in tables:
        tensor = graph.constants[name].type
        fits = len(tensor.shape) == 2 and tensor.shape[1] == width and tensor.dtype in ("f32", "bf16")
        if not fits or (rows is not None and tensor.shape[0] not in rows):
            raise ExportError(f"context tensor {name} is {tensor}: it must be f32 or bf16, at most [{length}, {width}]")


def _check_instruction_values(graph: Graph) -> None:
    text = graph.programs["set_instruction"]
    written = {name for op in text.ops for name in op.outputs.values()}
    for value in graph.programs["act"].values.values():
        if value.storage == "instruction" and (value.name not in written or text.values[value.name] != value):
            source: Value | None = text.values.get(value.name)
            raise ExportError(f"act reads {short(value)}, set_instruction writes {short(source)}: plan again")


def _sources(program: Program) -> Sources:
    return {name: (op, role) for op in program.ops for role, name in op.outputs.items()}


def _check_sources(program: Program, sources: Sources) -> None:
    for op in program.ops:
        if op.op == "text_key_bias" and program.values[op.inputs["text_rows"]].storage != "input":
            _refuse(op, "text_rows", "the input of the program")
        if op.op in ("cross_attention", "cross_attention_folded"):
            for role in ("key_bias", "key_count"):
                _expect(op, role, sources, "text_key_bias", role)
        if op.op in ("linear", "grouped_linear") and program.values[op.inputs["x"]].type.dtype in EIGHT_BITS:
            rounded = _expect(op, "x", sources, "quantize_rows", "y")
            for role, output in (("x_scale", "scale"), ("x_zero", "zero")):
                if role in op.inputs and _expect(op, role, sources, "quantize_rows", output) is not rounded:
                    _refuse(op, role, f"{output} of {rounded.name}")


def _expect(op: Op, role: str, sources: Sources, kind: str, output: str) -> Op:
    found: tuple[Op | None, Any] = sources.get(op.inputs[role], (None, None))
    writer = found[0]
    if writer is None or writer.op != kind or found[1] != output:
        _refuse(op, role, f"{output} of a {kind}")
    return writer


def _refuse(op: Op, role: str, expected: str) -> NoReturn:
    raise ExportError(f"op {op.name}: {role} is {op.inputs[role]}: it must be {expected}")
