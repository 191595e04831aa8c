# SPDX-License-Identifier: Apache-2.0
"""Eight-bit linears: which weights of a graph pay, and the graph that computes with them (quantization.md).

A layer is a weight together with every linear that reads it, in both programs. Its rows become whole numbers in
-127..127 (int8) or numbers of e4m3 (fp8) with one scale each; the rows it reads are quantised at run time by one
`quantize_rows` for all linears that read the same value (q, k and v do). Numbers are made when they are written, one
tensor at a time.

Symbols: N output width, K input width, R rows, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lightwam.arithmetic import default_arithmetic
from lightwam.engine.dtypes import NUMPY_DTYPE, Array, DType, Shape, decode
from lightwam.engine.graph import (
    EIGHT_BIT_FORMATS,
    Constant,
    EightBit,
    FloatPrecision,
    Graph,
    Op,
    Precision,
    Program,
    TensorType,
    Value,
)
from lightwam.engine.memory_plan import plan_graph
from lightwam.engine.ops import EIGHT_BIT_MATMULS, OPS
from lightwam.engine.ops.linear import MAX_QUANTISED_WIDTH, SMALLEST_SCALE
from lightwam.errors import ExportError
from lightwam.kernels.formats import E4M3_LARGEST, e4m3_bits

#: Weights that the linears reading one value must have together: below it, quantising the rows costs what is saved.
MIN_WEIGHTS = 32_768
#: Rows of a weight quantised at once: bounds the float32 copy to a few megabytes.
_BLOCK_NUMBERS = 1 << 22
_LARGEST: Mapping[EightBit, float] = {"int8": 127, "fp8": E4M3_LARGEST}


@dataclass(frozen=True)
class Layer:
    """A weight [N, K], or [G, N, K] of a `grouped_linear`, and the linears that read it: (program, op name) in order of
    execution, `act` first."""

    weight: str
    shape: Shape
    uses: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        return self.weight.removesuffix(".weight")


def find_layers(graph: Graph, min_weights: int = MIN_WEIGHTS) -> tuple[Layer, ...]:
    """The layers of `act` that pay, in order of execution. Raises `ExportError` on a graph that is quantised already.

    Never among them: linears that read the state, the one that writes the actions, and those that have fewer than
    `min_weights` together with the others that read the same value. A linear of `set_instruction` comes along only
    where it shares its weight with one of `act`.
    """
    if graph.precision in EIGHT_BIT_FORMATS:
        raise ExportError(f"engine {graph.name} is quantised already: give the float engine it was made from")
    act = graph.programs["act"]
    edges = set(_edge_weights(act))
    readers = _weight_readers(graph)
    paying: dict[str, Shape] = {}
    for linears in _linears_by_input(act).values():
        fitting = [op for op in linears if op.constants["weight"] not in edges]
        numbers = sum(math.prod(graph.constants[op.constants["weight"]].type.shape) for op in fitting)
        for op in fitting if numbers >= min_weights else ():
            weight = op.constants["weight"]
            shape = graph.constants[weight].type.shape
            if shape[-1] <= MAX_QUANTISED_WIDTH and all(use.op in EIGHT_BIT_MATMULS for _, use in readers[weight]):
                paying[weight] = shape
    return tuple(
        Layer(weight, shape, tuple((program, op.name) for program, op in readers[weight]))
        for weight, shape in paying.items()
    )


def _linears_by_input(program: Program) -> dict[str, list[Op]]:
    """Value -> the linears, grouped ones too, that read it."""
    groups: dict[str, list[Op]] = {}
    for op in program.ops:
        if op.op in EIGHT_BIT_MATMULS:
            groups.setdefault(op.inputs["x"], []).append(op)
    return groups


def _weight_readers(graph: Graph) -> dict[str, list[tuple[str, Op]]]:
    """Constant -> (program, op) of every op that reads it."""
    readers: dict[str, list[tuple[str, Op]]] = {}
    for name in ("act", "set_instruction"):
        for op in graph.programs[name].ops:
            for constant in op.constants.values():
                readers.setdefault(constant, []).append((name, op))
    return readers


def _edge_weights(act: Program) -> Iterator[str]:
    """Weights of the first matmuls behind the state and of the last ones before the actions."""
    forward = [(op, op.inputs.values(), op.outputs.values()) for op in act.ops]
    backward = [(op, after, before) for op, before, after in reversed(forward)]
    for steps, reached in ((forward, {"state"}), (backward, set(act.outputs.values()))):
        for op, near, far in steps:
            if reached.intersection(near) and OPS[op.op].matmul:
                yield op.constants["weight"]
            elif reached.intersection(near):
                reached.update(far)


@default_arithmetic
def quantize_graph(graph: Graph, layers: Collection[Layer], precision: EightBit = "int8") -> Graph:
    """The planned graph with these layers in eight bits, everything else as it was. Raises `ExportError` on none."""
    if not layers:
        raise ExportError(f"engine {graph.name} has no layer to quantise: use it as it is")
    chosen = {layer.weight for layer in layers}
    constants: dict[str, Constant] = {}
    for name, constant in graph.constants.items():
        made = _quantised_constants(constant, precision) if name in chosen else (constant,)
        constants.update({entry.name: entry for entry in made})
    programs = {
        name: _quantize_program(program, chosen, EIGHT_BIT_FORMATS[precision])
        for name, program in graph.programs.items()
    }
    return plan_graph(replace(graph, precision=precision, programs=programs, constants=constants))


def float_precision(precision: Precision) -> FloatPrecision:
    """What computes in float in an engine of this precision: bf16 beside eight bits."""
    return "bf16" if precision == "int8" or precision == "fp8" else precision


def in_precision(graph: Graph, precision: Precision, min_weights: int = MIN_WEIGHTS) -> Graph:
    """A float graph with all layers that pay in the eight bits of `precision`, if it is one of them; not measured."""
    if precision == "int8" or precision == "fp8":
        return quantize_graph(graph, find_layers(graph, min_weights), precision)
    return graph


def _quantize_program(program: Program, chosen: Collection[str], dtype: DType) -> Program:
    values: dict[str, Value] = dict(program.values)
    ops: list[Op] = []
    quantised: dict[str, Mapping[str, str]] = {}  # value -> those that hold it in eight bits, by role of x
    for op in program.ops:
        if op.op not in EIGHT_BIT_MATMULS or op.constants["weight"] not in chosen:
            ops.append(op)
            continue
        x = op.inputs["x"]
        if x not in quantised:
            step, made = _quantize_rows(values[x], op, dtype)
            ops.append(step)
            values.update({value.name: value for value in made})
            quantised[x] = {_ROLE_OF_X[role]: name for role, name in step.outputs.items()}
        constants = {**op.constants, "weight_scale": scale_name(op.constants["weight"])}
        ops.append(replace(op, inputs={**op.inputs, **quantised[x]}, constants=constants))
    return Program(values, tuple(ops), program.outputs)


_ROLE_OF_X = {"y": "x", "scale": "x_scale", "zero": "x_zero"}


def _quantize_rows(x: Value, reader: Op, dtype: DType) -> tuple[Op, list[Value]]:
    """The op that quantises a value, in the stage of its first reader, and the values it writes."""
    rows = (x.type.matrix[0],)
    types = {"y": TensorType(dtype, x.type.shape), "scale": TensorType("f32", rows)}
    if dtype == "i8":
        types["zero"] = TensorType("i32", rows)
    name = f"{x.name}.quantized"
    outputs = {role: f"{name}.{role}" for role in types}
    op = Op("quantize_rows", name, reader.stage, {"x": x.name}, {}, outputs, {})
    return op, [Value(outputs[role], tensor) for role, tensor in types.items()]


def scale_name(weight: str) -> str:
    """Name of the constant that holds the scales of a weight's rows."""
    return f"{weight}_scale"


@dataclass
class _QuantisedWeight:
    """Quantises a constant when it is read; its few scales are kept for the next reader."""

    source: Constant
    precision: EightBit
    kept_scale: list[NDArray[np.float32]] = field(default_factory=list)

    def weight(self) -> Array:
        numbers, scale = self._make()
        self.kept_scale[:] = [scale]
        return numbers

    def scale(self) -> Array:
        return self.kept_scale.pop() if self.kept_scale else self._make()[1]

    def _make(self) -> tuple[Array, NDArray[np.float32]]:
        return quantize_weight(self.source.array(), self.source, self.precision)


def _quantised_constants(source: Constant, precision: EightBit) -> tuple[Constant, Constant]:
    made = _QuantisedWeight(source, precision)
    return (
        Constant(source.name, TensorType(EIGHT_BIT_FORMATS[precision], source.type.shape), made.weight),
        Constant(scale_name(source.name), TensorType("f32", source.type.matrix[:1]), made.scale),
    )


@default_arithmetic
def quantize_weight(stored: Array, source: Constant, precision: EightBit = "int8") -> tuple[Array, NDArray[np.float32]]:
    """int8 or bits of e4m3 [..., K] and scales float32, one a row of the matrix view, of a weight as it is stored.

    Symmetric: the row's largest number becomes 127 (int8) or 448 (fp8). A row without a number of normal size has
    scale 1. Raises `ExportError` on NaN or infinity.
    """
    matrix = stored.reshape(-1, stored.shape[-1])
    rows, columns = matrix.shape
    largest = np.float32(_LARGEST[precision])
    numbers = np.empty((rows, columns), NUMPY_DTYPE[EIGHT_BIT_FORMATS[precision]])
    scales = np.empty(rows, np.float32)
    step = max(1, _BLOCK_NUMBERS // columns)
    for start in range(0, rows, step):
        block = np.asarray(decode(matrix[start : start + step], source.type.dtype), np.float32)
        scale = np.abs(block).max(1) / largest
        if not np.isfinite(scale).all():
            raise ExportError(f"weight {source.name} holds NaN or infinity: the engine is damaged, export it again")
        scale[scale < SMALLEST_SCALE] = 1
        scales[start : start + step] = scale
        held = np.clip(block / scale[:, None], -largest, largest)
        numbers[start : start + step] = e4m3_bits(held) if precision == "fp8" else np.rint(held)
    return numbers.reshape(stored.shape), scales
