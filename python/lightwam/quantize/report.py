# SPDX-License-Identifier: Apache-2.0
"""The options of a quantisation, and the report of what it measured and decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightwam.engine.graph import EightBit
from lightwam.quantize.chunk_gate import Agreement, Runner
from lightwam.quantize.layer_errors import LayerError
from lightwam.quantize.layers import MIN_WEIGHTS, Layer
from lightwam.quantize.variation import Variation


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The gates, and what they are measured with."""

    layer_gate: float = 0.05
    """Largest relative RMS error of a layer's output; a layer beyond it stays float."""
    chunk_gate: float = 0.999
    """Least cosine of the normalised action chunk; below it further layers stay float, the worst first."""
    keep_float: tuple[str, ...] = ()
    """Layers to leave in float, by name or pattern ('expert.*')."""
    reference: Path | None = None
    """Float engine of the same weights to compare chunks with (say, in f32); the engine itself when absent."""
    runner: Runner = "runtime"
    """What runs the chunks: the runtime that robots use, or the slow reference in float32."""
    threads: int | None = None
    """Threads of the runtime; all cores when absent."""


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(Gates):
    """`precision`: of the engine that is made. `min_weights`: see `find_layers`. `show_progress`: draw bars."""

    precision: EightBit = "int8"
    min_weights: int = MIN_WEIGHTS
    show_progress: bool = False


@dataclass(frozen=True)
class LayerVerdict:
    """What became of a layer: `verdict`: the new precision, or why it stays float. `errors`: None if not measured."""

    layer: Layer
    errors: LayerError | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        errors = {} if self.errors is None else {f"{k}_error": round(v, 7) for k, v in vars(self.errors).items()}
        linears = [f"{program}: {op}" for program, op in self.layer.uses]
        return {
            "layer": self.layer.name, "shape": list(self.layer.shape), "linears": linears, **errors,
            "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True)
class QuantizeReport:
    """Everything measured. `tries`: (layers kept float for the chunk's sake, least cosine), in the order tried."""

    engine: str
    precision: str
    reference: str
    source: str
    options: QuantizeOptions
    calibration: int
    variation: Variation
    layers: tuple[LayerVerdict, ...]
    tries: tuple[tuple[int, float], ...]
    chunk: Agreement | None
    passed: bool

    @property
    def fallbacks(self) -> tuple[LayerVerdict, ...]:
        """Layers that stay float."""
        return tuple(entry for entry in self.layers if entry.verdict != self.options.precision)

    def to_json(self) -> dict[str, Any]:
        """The report file's content; `summary` of it goes into the engine's provenance."""
        return {
            "engine": self.engine,
            **self.summary(),
            "tries": [{"kept_float": kept, "cosine_min": round(cosine, 7)} for kept, cosine in self.tries],
            "layers": [entry.to_json() for entry in self.layers],
        }

    def summary(self) -> dict[str, Any]:
        """Observations, gates, counts, fall-backs by name, and how well the chunk agrees."""
        return {
            "float_precision": self.precision,
            "chunk_reference": self.reference,
            "observations": {"source": self.source, "calibration": self.calibration,
                             "held_out": 0 if self.chunk is None else self.chunk.observations,
                             "distinct": self.variation.distinct, "warnings": list(self.variation.warnings)},
            "gates": {"layer_output_error": self.options.layer_gate, "chunk_cosine_min": self.options.chunk_gate},
            "runner": self.options.runner,
            f"layers_{self.options.precision}": len(self.layers) - len(self.fallbacks),
            "layers_float": {entry.layer.name: entry.verdict for entry in self.fallbacks},
            "chunk": None if self.chunk is None else self.chunk.to_json(),
        }  # fmt: skip


def report_path(out: Path) -> Path:
    """Where the report of an engine file lies: Q.lwam -> Q.report.json."""
    return out.with_name(f"{out.name.removesuffix('.lwam')}.report.json")
