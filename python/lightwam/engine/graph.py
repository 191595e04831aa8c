# SPDX-License-Identifier: Apache-2.0
"""The graph IR: typed values, ops out of a closed set, two programs, lazily made constants (engine-format.md).

Every shape is static. A constant is known by name, format and shape; its numbers are made only when it is written or
interpreted, so a graph of any size can be counted and planned without any weight in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from lightwam.engine.dtypes import ITEM_SIZE, NUMPY_DTYPE, Array, DType, Shape
from lightwam.errors import EngineError, ExportError
from lightwam.files import short

FORMAT = "lightwam-engine"
FORMAT_VERSION = 1
ALIGNMENT = 64
# Bounds of a file's numbers (csrc/engine/graph.hpp).
MOST_BLOCK_BYTES, MOST_ELEMENTS, MOST_DIMENSIONS = 16 << 30, 1 << 40, 6

Storage = Literal["arena", "input", "instruction"]
Stage = Literal["preprocess", "vae", "backbone", "expert", "postprocess", "text"]
FloatPrecision = Literal["f32", "bf16", "f16"]
EightBit = Literal["int8", "fp8"]
Precision = Literal["f32", "bf16", "f16", "int8", "fp8"]
#: Precisions of quantised engines, and the format of their numbers.
EIGHT_BIT_FORMATS: Mapping[EightBit, DType] = {"int8": "i8", "fp8": "f8"}
STAGES: tuple[Stage, ...] = ("preprocess", "vae", "backbone", "expert", "postprocess", "text")
PROGRAM_NAMES = ("set_instruction", "act")
Attr = int | float | str | bool | None | tuple[int, ...]


def matrix_view(shape: Shape) -> tuple[int, int]:
    """[R, C]: C is the last dimension, R all others multiplied."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


@dataclass(frozen=True)
class TensorType:
    """Format and shape of a value or a constant."""

    dtype: DType
    shape: Shape

    @property
    def num_bytes(self) -> int:
        return ITEM_SIZE[self.dtype] * math.prod(self.shape)

    @property
    def matrix(self) -> tuple[int, int]:
        """The matrix view [R, C]."""
        return matrix_view(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Value:
    """A tensor that a program reads or writes. `offset` (bytes) is set by the planner; inputs have none."""

    name: str
    type: TensorType
    storage: Storage = "arena"
    offset: int | None = None


@dataclass(frozen=True)
class Constant:
    """A weight or table of the graph. `load` makes its numbers (bfloat16 as uint16 patterns)."""

    name: str
    type: TensorType
    load: Callable[[], Array] = field(compare=False, repr=False)

    def array(self) -> Array:
        """The numbers, checked against the declared format and shape. Raises `ExportError`."""
        array = self.load()
        if array.shape != self.type.shape or array.dtype != NUMPY_DTYPE[self.type.dtype]:
            raise ExportError(
                f"constant {self.name}: made {array.dtype}{list(array.shape)}, declared {self.type}: "
                "the weights do not fit the configuration"
            )
        return array


class WithAttrs:
    """Reads attrs whose kind is known, by the op table or by the fusion that set them."""

    attrs: Mapping[str, Attr]

    def count(self, attr: str, default: int | None = None) -> int:
        value = self.attrs.get(attr, default)
        assert isinstance(value, int), f"{attr} is {value!r}"
        return value

    def number(self, attr: str) -> float:
        value = self.attrs[attr]
        assert isinstance(value, (int, float)), f"{attr} is {value!r}"
        return float(value)


@dataclass(frozen=True)
class Op(WithAttrs):
    """One step of a program; roles map to value names (inputs, outputs) or constant names."""

    op: str
    name: str
    stage: Stage
    inputs: Mapping[str, str]
    constants: Mapping[str, str]
    outputs: Mapping[str, str]
    attrs: Mapping[str, Attr]


@dataclass(frozen=True)
class Program:
    """Ops in order of execution over named values; `outputs` maps a role to a value."""

    values: Mapping[str, Value]
    ops: tuple[Op, ...]
    outputs: Mapping[str, str]
    arena_bytes: int = 0

    def last_reads(self) -> dict[str, int]:
        """Value -> index of its last reader; program outputs count as read at `len(ops)`. Unread values are absent."""
        reads = {name: index for index, op in enumerate(self.ops) for name in op.inputs.values()}
        reads.update({name: len(self.ops) for name in self.outputs.values()})
        return reads


@dataclass(frozen=True)
class Graph:
    """Everything that an engine file holds."""

    name: str
    precision: Precision
    policy: Mapping[str, Any]
    programs: Mapping[str, Program]
    constants: Mapping[str, Constant]
    instruction_bytes: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def constant_bytes(self) -> int:
        """Bytes of all constants: the file's size but for its header."""
        return sum(constant.type.num_bytes for constant in self.constants.values())


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """The JSON document of section 1 of docs/reference/engine-format.md."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": graph.name,
        "precision": graph.precision,
        "policy": dict(graph.policy),
        "programs": {name: _program_to_json(program) for name, program in graph.programs.items()},
        "instruction_bytes": graph.instruction_bytes,
        "provenance": dict(graph.provenance),
    }


def _program_to_json(program: Program) -> dict[str, Any]:
    return {
        "arena_bytes": program.arena_bytes,
        "values": [_value_to_json(value) for value in program.values.values()],
        "outputs": dict(program.outputs),
        "ops": [
            {**vars(op), "attrs": {key: list(x) if isinstance(x, tuple) else x for key, x in op.attrs.items()}}
            for op in program.ops
        ],
    }


def _value_to_json(value: Value) -> dict[str, Any]:
    entry = {"name": value.name, "dtype": value.type.dtype, "shape": list(value.type.shape), "storage": value.storage}
    return entry if value.offset is None else {**entry, "offset": value.offset}


def graph_from_json(document: Mapping[str, Any], constants: Mapping[str, Constant]) -> Graph:
    """Inverse of `graph_to_json`. Raises `EngineError` on another format, another version or a missing key."""
    found = (document.get("format"), document.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        known = (FORMAT, FORMAT_VERSION)
        raise EngineError(
            f"format is {found}: this reader knows {known}; install a newer lightwam, or export the policy again"
        )
    try:
        return Graph(
            name=_text(document["name"]),
            precision=_precision(document["precision"]),
            policy=_object(document["policy"]),
            programs={name: _program_from_json(program) for name, program in document["programs"].items()},
            constants=constants,
            instruction_bytes=_bytes(document["instruction_bytes"]),
            provenance=_provenance(document["provenance"]),
        )
    except KeyError as error:
        raise EngineError(f"the graph lacks {error}: export the policy again") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise EngineError(f"the graph is damaged ({error}): export the policy again") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{short(value)} stands where a text should")
    return value


def _bytes(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MOST_BLOCK_BYTES:
        raise TypeError(f"{short(value)} stands where a number of bytes should")
    return value


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{short(value)} stands where an object should")
    return value


def _precision(value: object) -> Precision:
    if value not in get_args(Precision):
        raise TypeError(f"{short(value)} stands where a precision should")
    return cast(Precision, value)


def _provenance(value: object) -> dict[str, Any]:
    """Free JSON, which our exporter writes as an object."""
    return value if isinstance(value, dict) else {"provenance": value}


def _only(entry: object, *keys: str) -> dict[str, Any]:
    """An object without other keys."""
    for key in _object(entry):
        if key not in keys:
            raise TypeError(f"the key {short(key)} is unknown")
    return _object(entry)


def _names(value: object) -> dict[str, str]:
    return {role: _text(name) for role, name in _object(value).items()}


def _attr(value: Any) -> Attr:
    if isinstance(value, list):
        return tuple(_attr(item) for item in value)  # type: ignore[misc]
    if isinstance(value, dict):
        raise TypeError(f"{short(value)} stands where an attribute should")
    return cast(Attr, value)


def tensor_type(dtype: object, shape: object) -> TensorType:
    """A format and shape as a file gives them. Raises TypeError on a shape that is none, KeyError on a format."""
    if not isinstance(shape, list) or not 1 <= len(shape) <= MOST_DIMENSIONS:
        raise TypeError(f"{short(shape)} stands where a shape of 1 to {MOST_DIMENSIONS} dimensions should")
    if not all(type(size) is int and size >= 1 for size in shape) or math.prod(shape) > MOST_ELEMENTS:
        raise TypeError(f"{short(shape)} stands where a shape should")
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise KeyError(f"format {short(dtype)}")
    return TensorType(dtype, tuple(shape))


def _value_from_json(entry: object) -> Value:
    entry = _only(entry, "name", "dtype", "shape", "storage", "offset")
    name, storage, offset = _text(entry["name"]), entry["storage"], entry.get("offset")
    if storage not in ("arena", "input", "instruction"):
        raise TypeError(f"{short(storage)} stands where a storage should")
    if (storage == "input") != ("offset" not in entry):
        raise TypeError(f"value {name} has an offset, or lacks one")
    return Value(name, tensor_type(entry["dtype"], entry["shape"]), storage, None if offset is None else _bytes(offset))


def _program_from_json(document: object) -> Program:
    document = _only(document, "arena_bytes", "values", "outputs", "ops")
    keys = ("op", "name", "stage", "inputs", "constants", "outputs", "attrs")
    values = [_value_from_json(entry) for entry in document["values"]]
    by_name = {value.name: value for value in values}
    if len(by_name) < len(values):
        raise ValueError("a value is there twice")
    ops = tuple(
        Op(
            op=_text(entry["op"]),
            name=_text(entry["name"]),
            stage=cast(Stage, _text(entry["stage"])),
            inputs=_names(entry["inputs"]),
            constants=_names(entry["constants"]),
            outputs=_names(entry["outputs"]),
            attrs={key: _attr(value) for key, value in _object(entry["attrs"]).items()},
        )
        for entry in (_only(item, *keys) for item in document["ops"])
    )
    return Program(by_name, ops, _names(document["outputs"]), _bytes(document["arena_bytes"]))
