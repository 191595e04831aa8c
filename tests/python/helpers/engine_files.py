# SPDX-License-Identifier: Apache-2.0
"""Writes small engine files by hand, independently of lightwam.export: good ones, and the factory of hostile ones."""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightwam.kernels.formats import e4m3_bits

# uint16 holds the bits of bf16, uint8 those of e4m3.
Tensor = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16] | NDArray[np.uint8] | NDArray[np.int8]
SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "uint8": "F8_E4M3", "int8": "I8"}

TASK = "pick up the soup"
CONTEXT_ROWS, TEXT_WIDTH, STATE_WIDTH, ACTION_WIDTH, HORIZON, WIDTH = 6, 8, 5, 3, 4, 8
BUCKETS = 16


def to_bf16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Bits of the nearest bf16, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def as_float(tensor: Tensor) -> NDArray[np.float64]:
    return (from_bf16(tensor) if tensor.dtype == np.uint16 else tensor).astype(np.float64)


@dataclass
class Engine:
    """An engine in parts: the document and its tensors."""

    document: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def act(self) -> dict[str, Any]:
        return self.document["programs"]["act"]  # type: ignore[no-any-return]

    @property
    def set_instruction(self) -> dict[str, Any]:
        return self.document["programs"]["set_instruction"]  # type: ignore[no-any-return]

    def op(self, name: str) -> dict[str, Any]:
        ops = self.act["ops"] + self.set_instruction["ops"]
        return next(op for op in ops if op["name"] == name)  # type: ignore[no-any-return]

    def value(self, name: str, program: str = "act") -> dict[str, Any]:
        values = self.document["programs"][program]["values"]
        return next(value for value in values if value["name"] == name)  # type: ignore[no-any-return]


def header_of(engine: Engine) -> tuple[dict[str, Any], list[Tensor]]:
    """The safetensors header and the tensors in file order: f32 first, i8 last, so that every tensor is aligned."""
    header: dict[str, Any] = {"__metadata__": {"lightwam": json.dumps(engine.document)}}
    offset = 0
    ordered = sorted(engine.tensors.items(), key=lambda item: -item[1].itemsize)
    for name, tensor in ordered:
        dtype = SAFETENSORS_NAMES[tensor.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    return header, [tensor for _, tensor in ordered]


def assemble(header: dict[str, Any] | bytes, tensors: list[Tensor]) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    return struct.pack("<Q", len(text)) + text + b"".join(tensor.tobytes() for tensor in tensors)


def engine_bytes(engine: Engine) -> bytes:
    return assemble(*header_of(engine))


def write_engine(path: Path, engine: Engine) -> Path:
    path.write_bytes(engine_bytes(engine))
    return path


@dataclass
class ProgramBuilder:
    """Lays values one after the other; `at` puts a value on the bytes of another one instead."""

    values: list[dict[str, Any]] = field(default_factory=list)
    ops: list[dict[str, Any]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=lambda: {"arena": 0, "instruction": 0})

    def value(
        self, name: str, shape: list[int], dtype: str = "f32", storage: str = "arena", at: str | None = None
    ) -> str:
        entry: dict[str, Any] = {"name": name, "dtype": dtype, "shape": shape, "storage": storage}
        if storage != "input":
            size = int(np.prod(shape)) * (2 if dtype == "bf16" else 4)
            other = next((value for value in self.values if value["name"] == at), None)
            entry["offset"] = self.sizes[storage] if other is None else other["offset"]
            end = (entry["offset"] + size + 63) // 64 * 64
            self.sizes[storage] = max(self.sizes[storage], end)
        self.values.append(entry)
        return name

    def op(
        self,
        op: str,
        name: str,
        stage: str,
        inputs: dict[str, str],
        outputs: dict[str, str],
        constants: dict[str, str] | None = None,
        **attrs: Any,
    ) -> None:
        self.ops.append(
            {
                "op": op,
                "name": name,
                "stage": stage,
                "inputs": inputs,
                "constants": constants or {},
                "outputs": outputs,
                "attrs": attrs,
            }
        )

    def program(self, outputs: dict[str, str]) -> dict[str, Any]:
        return {"arena_bytes": self.sizes["arena"], "values": self.values, "outputs": outputs, "ops": self.ops}


def random_tensors(bf16: bool) -> dict[str, Tensor]:
    rng = np.random.default_rng(20)

    def weight(*shape: int) -> Tensor:
        values = rng.normal(size=shape).astype(np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
        return to_bf16(values) if bf16 else values

    def vector(*shape: int) -> NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    return {
        "conv.weight": weight(WIDTH, 3, 3, 3),
        "conv.bias": vector(WIDTH),
        "norm.weight": vector(WIDTH),
        "query.weight": weight(WIDTH, WIDTH),
        "key.weight": weight(WIDTH, TEXT_WIDTH),
        "value.weight": weight(WIDTH, TEXT_WIDTH),
        "state.weight": vector(WIDTH, STATE_WIDTH),
        "state.bias": vector(WIDTH),
        "action.weight": weight(HORIZON * ACTION_WIDTH, WIDTH),
        "action.bias": vector(HORIZON * ACTION_WIDTH),
        "action.scale": vector(ACTION_WIDTH),
        "action.shift": vector(ACTION_WIDTH),
        "text.embedding": weight(BUCKETS, TEXT_WIDTH),
        "text.position": weight(CONTEXT_ROWS, TEXT_WIDTH),
        "instruction.0": weight(4, TEXT_WIDTH),
    }


def set_instruction_program() -> tuple[dict[str, Any], int]:
    program = ProgramBuilder()
    program.value("context", [CONTEXT_ROWS, TEXT_WIDTH], storage="input")
    program.value("text_rows", [1], dtype="i32", storage="input")
    program.value("key", [CONTEXT_ROWS, WIDTH], storage="instruction")
    program.value("value", [CONTEXT_ROWS, WIDTH], storage="instruction")
    program.value("key_bias", [CONTEXT_ROWS], storage="instruction")
    program.value("key_count", [1], dtype="i32", storage="instruction")
    for role in ("key", "value"):
        weight = {"weight": f"{role}.weight"}
        program.op("linear", role, "text", {"x": "context"}, {"y": role}, weight, activation="none")
    outputs = {"key_bias": "key_bias", "key_count": "key_count"}
    program.op("text_key_bias", "bias", "text", {"text_rows": "text_rows"}, outputs)
    return program.program({}), program.sizes["instruction"]


def act_program(images: bool) -> dict[str, Any]:
    """Images or latents -> tokens [32, D] -> attention over the instruction -> one row -> actions."""
    program = ProgramBuilder()
    program.value("state", [1, STATE_WIDTH], storage="input")
    if images:
        program.value("canvas", [8, 16, 3])
        program.op("preprocess_images", "images", "preprocess", {}, {"y": "canvas"})
    else:
        program.value("latents", [3, 8, 16], storage="input")
        program.value("canvas", [8, 16, 3])
        program.op("nchw_to_nhwc", "layout", "preprocess", {"x": "latents"}, {"y": "canvas"})
    program.value("features", [4, 8, WIDTH])
    constants = {"weight": "conv.weight", "bias": "conv.bias"}
    convolution = {"stride": 2, "padding": [0, 0, 1, 1], "activation": "silu"}
    program.op("conv2d", "conv", "vae", {"x": "canvas"}, {"y": "features"}, constants, **convolution)
    program.value("tokens", [32, WIDTH], at="features")
    program.op("reshape", "tokens", "backbone", {"x": "features"}, {"y": "tokens"})
    program.value("normed", [32, WIDTH], at="tokens")
    norm = {"weight": "norm.weight"}
    program.op("rms_norm", "norm", "backbone", {"x": "tokens"}, {"y": "normed"}, norm, eps=1e-6, activation="none")
    program.value("query", [32, WIDTH])
    weight = {"weight": "query.weight"}
    program.op("linear", "query", "backbone", {"x": "normed"}, {"y": "query"}, weight, activation="gelu_tanh")
    for name, shape, dtype in (("key", [6, WIDTH], "f32"), ("value", [6, WIDTH], "f32"), ("key_bias", [6], "f32")):
        program.value(name, shape, dtype, storage="instruction")
    program.value("key_count", [1], "i32", storage="instruction")
    program.value("attended", [32, WIDTH])
    inputs = {"q": "query", "key_text": "key", "value_text": "value", "key_bias": "key_bias", "key_count": "key_count"}
    program.op("cross_attention", "attention", "backbone", inputs, {"y": "attended"}, heads=2, scale=0.5)
    program.value("pooled", [1, WIDTH])
    program.op("mean_pool", "pool", "expert", {"x": "attended"}, {"y": "pooled"})
    program.value("fused", [1, WIDTH], at="pooled")
    constants = {"weight": "state.weight", "bias": "state.bias"}
    inputs = {"x": "state", "residual": "pooled"}
    program.op("linear", "state", "expert", inputs, {"y": "fused"}, constants, activation="none")
    program.value("chunk", [1, HORIZON * ACTION_WIDTH])
    constants = {"weight": "action.weight", "bias": "action.bias"}
    program.op("linear", "action", "expert", {"x": "fused"}, {"y": "chunk"}, constants, activation="none")
    program.value("normalised", [HORIZON, ACTION_WIDTH], at="chunk")
    program.op("reshape", "chunk", "expert", {"x": "chunk"}, {"y": "normalised"})
    program.value("denormalised", [HORIZON, ACTION_WIDTH], at="normalised")
    constants = {"scale": "action.scale", "shift": "action.shift"}
    outputs = {"y": "denormalised"}
    bounds = {"minimum": None, "maximum": 2.5}
    program.op("scale_shift_clamp", "denormalise", "postprocess", {"x": "normalised"}, outputs, constants, **bounds)
    program.value("actions", [HORIZON, ACTION_WIDTH], at="denormalised")
    program.op("gripper_rule", "gripper", "postprocess", {"x": "denormalised"}, {"y": "actions"}, column=2)
    return program.program({"actions": "actions"})


def with_normed_in(engine: Engine, dtype: str) -> Engine:
    """`normed` in 16 bits, so in a place of its own; what it is multiplied with has to follow."""
    engine.value("normed").update(dtype=dtype, offset=engine.act["arena_bytes"])
    engine.act["arena_bytes"] += 1024
    return engine


def small_engine(images: bool = True, text_encoder: bool = True, bf16_weights: bool = False) -> Engine:
    """A complete little policy that uses every part of the format: f32 arithmetic, weights f32 or bf16."""
    set_instruction, instruction_bytes = set_instruction_program()
    cameras = [
        {"name": "agentview", "rect": [0, 0, 8, 8], "rotate_180": True},
        {"name": "wrist", "rect": [0, 8, 8, 8], "rotate_180": False},
    ]
    encoder = {"kind": "hashed_words", "embedding": "text.embedding", "position": "text.position"}
    policy = {
        "starts_at": "images" if images else "latents",
        "canvas": [8, 16] if images else None,
        "cameras": cameras if images else [],
        "latent_shape": [3, 8, 16],
        "state_width": STATE_WIDTH,
        "action_width": ACTION_WIDTH,
        "horizon": HORIZON,
        "replan": 2,
        "context_rows": CONTEXT_ROWS,
        "text_width": TEXT_WIDTH,
        "prompt_template": "{task}",
        "text_encoder": encoder if text_encoder else None,
        "instructions": [{"text": TASK, "context": "instruction.0"}],
        "normalizer": {},
        "gripper": "sign",
        "control_hz": 20,
    }
    document = {
        "format": "lightwam-engine",
        "format_version": 1,
        "name": "small",
        "precision": "f32",
        "policy": policy,
        "programs": {"set_instruction": set_instruction, "act": act_program(images)},
        "instruction_bytes": instruction_bytes,
        "provenance": {"made by": "tests/python/runtime/engine_files.py"},
    }
    return Engine(document, random_tensors(bf16_weights))


def quantise_linear(engine: Engine, name: str, eight: str = "i8") -> None:
    """The linear `name` of act in i8 or f8: quantize_rows in front of it, a scale for each row of its weight."""
    linear = engine.op(name)
    x, weight = linear["inputs"]["x"], linear["constants"]["weight"]
    values = as_float(engine.tensors[weight])
    scale = (np.abs(values).max(axis=1) / (127.0 if eight == "i8" else 448.0)).astype(np.float32)
    held = values / scale[:, None]
    engine.tensors[weight] = np.rint(held).astype(np.int8) if eight == "i8" else e4m3_bits(held)
    engine.tensors[f"{weight}.scale"] = scale
    shape = engine.value(x)["shape"]
    parts = {"y": ("x", eight, shape), "scale": ("x_scale", "f32", shape[:-1]), "zero": ("x_zero", "i32", shape[:-1])}
    if eight == "f8":
        del parts["zero"]
    for output, (role, dtype, part_shape) in parts.items():
        offset = engine.act["arena_bytes"]
        entry = {"name": f"{x}.{output}", "dtype": dtype, "shape": part_shape, "storage": "arena", "offset": offset}
        engine.act["values"].append(entry)
        engine.act["arena_bytes"] += (int(np.prod(part_shape)) * 4 + 63) // 64 * 64
        linear["inputs"][role] = entry["name"]
    linear["constants"]["weight_scale"] = f"{weight}.scale"
    op = {"op": "quantize_rows", "name": f"{x} in 8 bits", "stage": linear["stage"], "inputs": {"x": x}}
    outputs = {output: f"{x}.{output}" for output in parts}
    engine.act["ops"].insert(engine.act["ops"].index(linear), op | {"constants": {}, "outputs": outputs, "attrs": {}})


def quantised(engine: Engine, eight: str = "i8") -> Engine:
    """The engine with its linears `query` (gelu) and `state` (residual in place) in i8 or f8."""
    for name in ("query", "state"):
        quantise_linear(engine, name, eight)
    engine.document["precision"] = "int8" if eight == "i8" else "fp8"
    return engine


def observation(images: bool = True, seed: int = 3, size: tuple[int, int] = (12, 10)) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    result: dict[str, Any] = {"state": rng.normal(size=STATE_WIDTH).astype(np.float32)}
    if images:
        result["images"] = {
            name: rng.integers(0, 256, size=(*size, 3), dtype=np.uint8) for name in ("agentview", "wrist")
        }
    else:
        result["latents"] = rng.normal(size=(3, 8, 16)).astype(np.float32)
    return result


if __name__ == "__main__":  # writes the files that the C++ tests read
    folder = Path(sys.argv[1])
    write_engine(folder / "small_images.lwam", small_engine())
    write_engine(folder / "small_latents.lwam", small_engine(images=False, text_encoder=False))
    write_engine(folder / "small_int8.lwam", quantised(small_engine(images=False, text_encoder=False)))
