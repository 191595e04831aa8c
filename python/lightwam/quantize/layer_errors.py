# SPDX-License-Identifier: Apache-2.0
"""What eight bits cost each layer: the float graph runs on calibration observations, every linear is computed twice.

All errors are relative RMS: |made - expected| / |expected|, of inputs and outputs over at most `MAX_ROWS` (64) rows of
each observation, spread evenly; of weights over all numbers. The output is that of the linear with bias and activation,
without the residual, which would hide the error behind the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightwam.engine.dtypes import decode
from lightwam.engine.graph import Graph, Op
from lightwam.engine.inputs import Observation
from lightwam.engine.interpret import Interpreter
from lightwam.engine.ops import EIGHT_BIT_MATMULS, Call
from lightwam.engine.ops.linear import grouped_matmul, quantize_rows
from lightwam.errors import ExportError
from lightwam.quantize.layers import Layer, scale_name

#: Rows of a layer's input that are looked at, spread evenly: errors of rows are alike, matmuls are not cheap.
MAX_ROWS = 64


@dataclass(frozen=True)
class LayerError:
    """Relative RMS errors of one layer; of several uses the worst."""

    weight: float
    input: float
    output: float


@dataclass
class _Sums:
    """Squared norms, summed over observations."""

    error: float = 0.0
    reference: float = 0.0

    def add(self, made: Tensor, expected: Tensor) -> None:
        self.error += float((made - expected).double().square().sum())
        self.reference += float(expected.double().square().sum())

    def relative(self) -> float:
        if self.error == 0.0:
            return 0.0
        return float((self.error / self.reference) ** 0.5) if self.reference > 0 else float("inf")


@dataclass
class _Meter:
    """Sees every op of the float graph and sums the errors of the layers among them."""

    quantised: Graph
    layers: dict[str, Layer]
    weight: dict[str, _Sums] = field(default_factory=dict)
    input: dict[tuple[str, str], _Sums] = field(default_factory=dict)
    output: dict[tuple[str, str], _Sums] = field(default_factory=dict)

    def on_op(self, program: str, op: Op, call: Call) -> None:
        if op.op not in EIGHT_BIT_MATMULS or op.constants["weight"] not in self.layers:
            return
        name, use = op.constants["weight"], (program, op.name)
        stored = self.quantised.constants[name]
        numbers = torch.from_numpy(np.array(decode(stored.array(), stored.type.dtype), np.float32))
        scale = torch.from_numpy(self.quantised.constants[scale_name(name)].array().copy())
        weight = numbers * scale.reshape(*numbers.shape[:-1], 1)
        if name not in self.weight:
            self.weight.setdefault(name, _Sums()).add(weight, call["weight"])
        grouped = op.op == "grouped_linear"
        x = _some_rows(call["x"] if grouped else call["x"].flatten(0, -2))
        eight = quantize_rows(x, stored.type.dtype)
        rows = (*x.shape[:-1], 1)
        back = eight["y"].to(torch.float32) * eight["scale"].reshape(rows)
        if "zero" in eight:
            back = back - (eight["zero"] * eight["scale"]).reshape(rows)
        made, expected = _output(call, grouped, back, weight), _output(call, grouped, x, call["weight"])
        self.input.setdefault(use, _Sums()).add(back, x)
        self.output.setdefault(use, _Sums()).add(made, expected)


def _output(call: Call, grouped: bool, x: Tensor, weight: Tensor) -> Tensor:
    """The matmul of some rows and a weight, with the op's bias and activation."""
    if grouped:
        return call.add_bias(grouped_matmul(x, weight))
    return call.activate(F.linear(x, weight, call.get("bias")))


def _some_rows(x: Tensor) -> Tensor:
    """At most `MAX_ROWS` rows of [R, K] or [M, G, K], spread evenly."""
    rows = x.shape[0]
    return x if rows <= MAX_ROWS else x[torch.arange(MAX_ROWS) * rows // MAX_ROWS]


def measure_layers(
    graph: Graph,
    quantised: Graph,
    layers: Sequence[Layer],
    observations: Sequence[Observation],
    on_observation: Callable[[int], None] = lambda _: None,
) -> dict[str, LayerError]:
    """Weight -> errors, over these observations, in float32. `quantised`: the graph with the layers in eight bits.

    `on_observation` is called with 1 after each. Raises `ExportError` if a layer's numbers are not finite.
    """
    meter = _Meter(quantised, {layer.weight: layer for layer in layers})
    interpreter = Interpreter(graph, torch.float32, on_op=meter.on_op)
    for observation in observations:
        interpreter.infer(observation)
        on_observation(1)
    return {layer.weight: _error(meter, layer) for layer in layers}


def _error(meter: _Meter, layer: Layer) -> LayerError:
    error = LayerError(
        meter.weight[layer.weight].relative(),
        max(meter.input[use].relative() for use in layer.uses),
        max(meter.output[use].relative() for use in layer.uses),
    )
    if not all(torch.isfinite(torch.tensor([error.weight, error.input, error.output]))):
        raise ExportError(f"layer {layer.name} has errors {error}: the engine computes numbers that are not finite")
    return error
