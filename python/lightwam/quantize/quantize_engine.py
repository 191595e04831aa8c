# SPDX-License-Identifier: Apache-2.0
"""`quantize_engine`: a float engine file -> an eight-bit one that passed its gates, and the report of how.

Two gates. A layer whose own output error is too large stays float. Then whole chunks of both engines are compared on
held-out observations; while they differ too much, further layers stay float, the worst first.
"""

from __future__ import annotations

import fnmatch
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightwam.arithmetic import default_arithmetic
from lightwam.engine.dtypes import Array
from lightwam.engine.file import check_checksums, check_engine_output, read_engine, write_engine
from lightwam.engine.graph import EIGHT_BIT_FORMATS, Graph
from lightwam.engine.verify import check_graph
from lightwam.errors import ConfigError, ExportError
from lightwam.file_kind import FileKind
from lightwam.files import check_output, replacing_file
from lightwam.progress import progress_bar
from lightwam.quantize.calibration import Observations
from lightwam.quantize.chunk_gate import Agreement, agreement, gripper_column, probe_graph, run_probe
from lightwam.quantize.layer_errors import measure_layers
from lightwam.quantize.layers import Layer, find_layers, quantize_graph, scale_name
from lightwam.quantize.report import LayerVerdict, QuantizeOptions, QuantizeReport, report_path
from lightwam.quantize.variation import Variation, measure_variation


def check_quantize_output(out: Path, inputs: Iterable[Path | None]) -> None:
    """Raise `ExportError` where engine or report may not be written: over an input, or over what is neither."""
    check_engine_output(out, inputs)
    check_output(report_path(out), "a report", ExportError, _is_report, inputs)


def _is_report(path: Path, kind: FileKind) -> bool:
    return kind.name == "json" and b'"layers_float"' in path.read_bytes()


@default_arithmetic
def quantize_engine(
    engine: Path, out: Path, observations: Observations, options: QuantizeOptions | None = None
) -> QuantizeReport:
    """Quantise an engine file; write `out` and, beside it, the report, unless a gate cannot be met (`passed` False).

    Needs about twice the engine's size on disk beside `out` while it works, and memory for the engine as the runtime
    holds it. Raises `ConfigError`, `EngineError`, `ExportError`, and `DataError` for observations that do not differ;
    then, as when a gate is not met, nothing is written.
    """
    options = options or QuantizeOptions()
    check_quantize_output(out, (engine, options.reference))
    variation = measure_variation(observations)
    graph = read_engine(engine)
    check_graph(graph)
    with progress_bar("checking", graph.constant_bytes(), options.show_progress) as advance:
        check_checksums(engine, advance)
    reference = graph if options.reference is None else _reference(options.reference, graph, options.show_progress)
    every, excluded = _layers(find_layers(graph, options.min_weights), graph.name, options.keep_float)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name[:50]}.", dir=out.parent) as folder:
        run = _Run(graph, reference, every, observations, variation, options, Path(folder))
        report = run.report(engine.name, excluded)
        if report.passed:
            chosen = [entry.layer for entry in report.layers if entry.verdict == options.precision]
            run.write(chosen, out, report)
    return report


def _reference(path: Path, graph: Graph, show_progress: bool) -> Graph:
    """A float engine to compare with. Raises `ConfigError` unless it takes and gives what `graph` does, `EngineError`
    if it is damaged."""
    reference = read_engine(path)
    check_graph(reference)
    keys = ("starts_at", "cameras", "latent_shape", "state_width", "action_width", "horizon", "normalizer", "gripper")
    for key in keys:
        if reference.policy[key] != graph.policy[key]:
            raise ConfigError(
                f"reference {path} has {key} {reference.policy[key]}, engine {graph.name} has {graph.policy[key]}: "
                "give a float engine of the same policy"
            )
    if reference.precision in EIGHT_BIT_FORMATS:
        raise ConfigError(
            f"reference {path} is an {reference.precision} engine: give a float engine of the same policy"
        )
    with progress_bar("checking reference", reference.constant_bytes(), show_progress) as advance:
        check_checksums(path, advance)
    return reference


def _layers(layers: Sequence[Layer], engine: str, keep_float: Sequence[str]) -> tuple[list[Layer], list[Layer]]:
    """Layers to quantise, and those that shall not be. Raises `ConfigError` on a pattern that names none."""
    for pattern in keep_float:
        if not any(fnmatch.fnmatchcase(layer.name, pattern) for layer in layers):
            names = [layer.name for layer in layers[:3]]
            raise ConfigError(f"keep_float {pattern!r} names no layer of engine {engine}: they are {names}, ...")
    excluded = [layer for layer in layers if any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in keep_float)]
    return [layer for layer in layers if layer not in excluded], excluded


def fewest_kept_float(count: int, passes: Callable[[int], bool]) -> int | None:
    """The least number of layers that must stay float, worst first, so that `passes`; None if it takes all `count`.

    Tries 0 first, then halves: more float layers are taken to bring the chunk no further away.
    """
    if count == 0:
        return None
    if passes(0):
        return 0
    failing, passing = 0, count
    while passing - failing > 1:
        middle = (failing + passing) // 2
        if passes(middle):
            passing = middle
        else:
            failing = middle
    return None if passing == count else passing


@dataclass
class _Run:
    """One quantisation at work in a folder of its own."""

    graph: Graph
    reference: Graph
    layers: list[Layer]
    observations: Observations
    variation: Variation
    options: QuantizeOptions
    folder: Path

    def report(self, engine: str, excluded: Sequence[Layer]) -> QuantizeReport:
        """Measure layers, then chunks."""
        options = self.options
        self._write_probe(self._quantised, self.layers)
        self.stored = read_engine(self._quantised)
        with progress_bar("layers", len(self.observations.calibration), options.show_progress) as advance:
            errors = measure_layers(self.graph, self.stored, self.layers, self.observations.calibration, advance)
        kept = {layer.weight: "float: asked for" for layer in excluded}
        for layer in self.layers:
            if errors[layer.weight].output > options.layer_gate:
                kept[layer.weight] = f"float: output error over {options.layer_gate}"
        within = [layer for layer in self.layers if layer.weight not in kept]
        worst_first = sorted(within, key=lambda layer: -errors[layer.weight].output)
        tried: dict[int, Agreement] = {}
        count = self._search(worst_first, tried)
        for layer in worst_first[: len(worst_first) if count is None else count]:
            kept[layer.weight] = f"float: chunk cosine under {options.chunk_gate}"
        position = {weight: index for index, weight in enumerate(self.graph.constants)}
        every = sorted((*self.layers, *excluded), key=lambda layer: position[layer.weight])
        return QuantizeReport(
            engine, self.graph.precision, self.reference.precision, self.observations.source, options,
            len(self.observations.calibration), self.variation,
            tuple(
                LayerVerdict(layer, errors.get(layer.weight), kept.get(layer.weight, options.precision))
                for layer in every
            ),
            tuple((kept_float, found.cosine_min) for kept_float, found in tried.items()),
            None if count is None else tried[count], count is not None,
        )  # fmt: skip

    @property
    def _quantised(self) -> Path:
        """The probe with every layer in eight bits: the store of the quantised numbers."""
        return self.folder / f"{self.options.precision}.lwam"

    def _search(self, worst_first: Sequence[Layer], tried: dict[int, Agreement]) -> int | None:
        if not worst_first:
            return None
        expected = self._float_chunks()

        def passes(kept: int) -> bool:
            tried[kept] = agreement(self._chunks(worst_first[kept:]), expected, gripper_column(self.graph))
            return tried[kept].cosine_min >= self.options.chunk_gate

        return fewest_kept_float(len(worst_first), passes)

    def _float_chunks(self) -> Array:
        path = self.folder / "float.lwam"
        probe = probe_graph(self.reference)
        with progress_bar("writing float probe", probe.constant_bytes(), self.options.show_progress) as advance:
            write_engine(probe, path, advance)
        chunks = self._run(path, "float chunks")
        path.unlink()
        return chunks

    def _chunks(self, layers: Sequence[Layer]) -> Array:
        """Chunks of the engine with these layers in eight bits."""
        if len(layers) == len(self.layers):
            return self._run(self._quantised, f"{self.options.precision} chunks")
        path = self.folder / "fewer.lwam"
        self._write_probe(path, layers)
        chunks = self._run(path, f"{self.options.precision} chunks, {len(self.layers) - len(layers)} layers float")
        path.unlink()
        return chunks

    def _run(self, path: Path, label: str) -> Array:
        held_out, options = self.observations.held_out, self.options
        with progress_bar(label, len(held_out), options.show_progress) as advance:
            return run_probe(path, held_out, options.runner, options.threads, advance)

    def _write_probe(self, path: Path, layers: Sequence[Layer]) -> None:
        made = probe_graph(self._with_layers(layers))
        with progress_bar("quantising", made.constant_bytes(), self.options.show_progress) as advance:
            write_engine(made, path, advance)

    def _with_layers(self, layers: Sequence[Layer]) -> Graph:
        """The graph with these layers in eight bits, their numbers from the store once it is there."""
        made = quantize_graph(self.graph, layers, self.options.precision)
        if not self._quantised.exists():
            return made
        names = [name for layer in layers for name in (layer.weight, scale_name(layer.weight))]
        stored = {name: self.stored.constants[name] for name in names}
        return replace(made, constants={**made.constants, **stored})

    def write(self, layers: Sequence[Layer], out: Path, report: QuantizeReport) -> None:
        """The engine and its report, each complete before it has its name."""
        source = dict(self.graph.provenance)
        provenance = {**source, "parity": None, "float_parity": source.get("parity"), "quantization": report.summary()}
        made = replace(self._with_layers(layers), provenance=provenance)
        bar = progress_bar("writing", made.constant_bytes(), self.options.show_progress)
        with replacing_file(report_path(out)) as part, bar as advance:
            part.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
            write_engine(made, out, advance, read_back=True)
