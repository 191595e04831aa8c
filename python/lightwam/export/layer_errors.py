# SPDX-License-Identifier: Apache-2.0
"""What eight bits cost each layer: the float graph runs on calibration observations, every linear is computed twice.

All errors are relative RMS: |made - wanted| / |wanted|, of inputs and outputs over at most `MAX_ROWS` (64) rows of each
observation, spread evenly; of weights over all numbers. The output is that of the linear with bias and activation,
without the residual, which would hide the error behind the token stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from lightwam.errors import ExportError
from lightwam.export.calibration import Observation
from lightwam.export.graph import Graph, Op
from lightwam.export.interpret import Call, Interpreter, instruction_context, is_small, quantize_rows
from lightwam.export.quantize import Layer, scale_name

#: Rows of a layer's input that are looked at, spread evenly: errors of rows are alike, products are not cheap.
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

    def add(self, made: Tensor, wanted: Tensor) -> None:
        self.error += float((made - wanted).double().square().sum())
        self.reference += float(wanted.double().square().sum())

    def relative(self) -> float:
        if self.error == 0.0:
            return 0.0
        return float((self.error / self.reference) ** 0.5) if self.reference > 0 else float("inf")


@dataclass
class _Meter:
    """Hears every op of the float graph and sums the errors of the layers among them."""

    quantised: Graph
    layers: dict[str, Layer]
    weight: dict[str, _Sums] = field(default_factory=dict)
    input: dict[tuple[str, str], _Sums] = field(default_factory=dict)
    output: dict[tuple[str, str], _Sums] = field(default_factory=dict)

    def on_op(self, program: str, op: Op, call: Call) -> None:
        if op.op != "linear" or op.constants["weight"] not in self.layers:
            return
        name, use = op.constants["weight"], (program, op.name)
        numbers, scale = (
            torch.from_numpy(self.quantised.constants[part].array().copy()) for part in (name, scale_name(name))
        )
        weight = numbers.to(torch.float32) * scale[:, None]
        if name not in self.weight:
            self.weight.setdefault(name, _Sums()).add(weight, call["weight"])
        x = _some_rows(call["x"].flatten(0, -2))
        eight = quantize_rows(x)
        back = (eight["y"].to(torch.float32) - eight["zero"][:, None]) * eight["scale"][:, None]
        made, wanted = (
            call.activate(F.linear(rows, matrix, call.get("bias")))
            for rows, matrix in ((back, weight), (x, call["weight"]))
        )
        self.input.setdefault(use, _Sums()).add(back, x)
        self.output.setdefault(use, _Sums()).add(made, wanted)


def _some_rows(x: Tensor) -> Tensor:
    """At most `MAX_ROWS` rows of [R, K], spread evenly."""
    rows = x.shape[0]
    return x if rows <= MAX_ROWS else x[torch.arange(MAX_ROWS) * rows // MAX_ROWS]


def measure_layers(
    graph: Graph,
    quantised: Graph,
    layers: Sequence[Layer],
    observations: Sequence[Observation],
    on_observation: Callable[[int], None] = lambda _: None,
) -> dict[str, LayerError]:
    """Weight -> errors, over these observations, in float32. `quantised`: the graph that holds the layers in int8.

    `on_observation` hears a 1 after each. Raises `ExportError` if a layer's numbers are not finite.
    """
    meter = _Meter(quantised, {layer.weight: layer for layer in layers})
    interpreter = Interpreter(graph, torch.float32, keep_constants=is_small(graph), on_op=meter.on_op)
    instruction = None
    for observation in observations:
        if observation.instruction != instruction:
            instruction = observation.instruction
            interpreter.set_instruction(instruction_context(graph, instruction))
        interpreter.act(observation.state, observation.latents, observation.images)
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
