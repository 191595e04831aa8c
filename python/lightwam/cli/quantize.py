# SPDX-License-Identifier: Apache-2.0
"""`lightwam quantize`: a finished engine file and recorded observations -> an eight-bit engine file and its report."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from lightwam.cli.parse import Positional
from lightwam.engine.file import read_engine
from lightwam.engine.graph import EightBit
from lightwam.errors import ConfigError
from lightwam.progress import progress_bar
from lightwam.quantize.calibration import Observations, random_observations, recorded_observations
from lightwam.quantize.quantize_engine import check_quantize_output, quantize_engine
from lightwam.quantize.report import Gates, LayerVerdict, QuantizeOptions, QuantizeReport, report_path
from lightwam.terminal import table

#: Layers on the screen unless --all-layers; the report file holds all of them.
SHOWN_LAYERS = 16


@dataclass(frozen=True)
class QuantizeArgs(Gates):
    """Compute an engine's large linears in eight bits, layer by layer where that is accurate enough."""

    engine: Positional[Path]
    """Engine file (*.lwam) in f32, bf16 or f16; what is not quantised stays in that precision."""
    out: Path
    """The engine file to write; the report goes beside it, as *.report.json."""
    format: EightBit = "int8"
    """Numbers of the eight bits: int8, or fp8 (e4m3: GPUs from sm_89 on, all but Orin)."""
    calibration: Path | None = None
    """Folder of a LeRobot data set with the engine's cameras, robot state and tasks."""
    random_observations: int | None = None
    """Instead of recordings: this many random observations for the chunk (for random weights, not for robots)."""
    held_out: int = 64
    """Recorded observations of held-out episodes on which whole chunks are compared."""
    layer_observations: int = 16
    """Observations on which every layer's own error is measured."""
    seed: int = 0
    """Seed of the split into calibration and held-out episodes, or of the random observations."""
    all_layers: bool = False
    """Show every layer on the screen, not the worst ones only."""


def main(arguments: QuantizeArgs) -> int:
    """Quantise and print the report; 1 when a gate cannot be met (nothing is written then). Raises `LightWAMError`s."""
    _check(arguments)
    observations = _observations(arguments)
    gates = {field.name: getattr(arguments, field.name) for field in fields(Gates)}
    options = QuantizeOptions(precision=arguments.format, show_progress=True, **gates)
    report = quantize_engine(arguments.engine, arguments.out, observations, options)
    print_report(report, None if arguments.all_layers else SHOWN_LAYERS)
    if not report.passed:
        tries = ", ".join(f"{cosine:.6f} with {kept} more layers float" for kept, cosine in report.tries) or "none"
        print(
            f"gates not met, nothing written: layer output error <= {arguments.layer_gate}, chunk cosine >= "
            f"{arguments.chunk_gate} (tried: {tries}); use the float engine, or allow more with the gates' options"
        )
        return 1
    before, after = (path.stat().st_size / 1e6 for path in (arguments.engine, arguments.out))
    print(f"{arguments.out}: {after:.1f} MB (from {before:.1f} MB); every layer in {report_path(arguments.out)}")
    return 0


def _check(arguments: QuantizeArgs) -> None:
    if (arguments.calibration is None) == (arguments.random_observations is None):
        raise ConfigError("calibration and random-observations: give exactly one of them")
    counts = {
        "held-out": arguments.held_out, "layer-observations": arguments.layer_observations,
        "random-observations": 1 if arguments.random_observations is None else arguments.random_observations,
    }  # fmt: skip
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"--{name} is {count}: use at least 1")
    if arguments.seed < 0:
        raise ConfigError(f"--seed is {arguments.seed}: use a number from 0 on")
    if not 0 < arguments.layer_gate <= 1:
        raise ConfigError(f"--layer-gate is {arguments.layer_gate}: use a relative error in 0..1")
    if not 0 < arguments.chunk_gate <= 1:
        raise ConfigError(f"--chunk-gate is {arguments.chunk_gate}: use a cosine in 0..1")
    check_quantize_output(arguments.out, (arguments.engine, arguments.reference))


def _observations(arguments: QuantizeArgs) -> Observations:
    graph = read_engine(arguments.engine)
    layers, seed = arguments.layer_observations, arguments.seed
    if arguments.calibration is None:
        assert arguments.random_observations is not None
        return random_observations(graph, layers, arguments.random_observations, seed)
    frames = (layers + arguments.held_out) * len(graph.policy["cameras"])
    with progress_bar("reading recordings", frames, True) as advance:
        return recorded_observations(graph, arguments.calibration, layers, arguments.held_out, seed, advance)


def print_report(report: QuantizeReport, shown: int | None) -> None:
    """The layers, worst first (all fall-backs, and up to `shown` others; None: all in order), then the chunk."""
    entries = list(report.layers)
    if shown is not None:
        eight = sorted(
            (entry for entry in entries if entry.verdict == report.options.precision), key=_output_error, reverse=True
        )
        entries = [*report.fallbacks, *eight[:shown]]
    rows = []
    for entry in entries:
        errors = ("-", "-", "-") if entry.errors is None else tuple(f"{e:.4f}" for e in vars(entry.errors).values())
        shape = "x".join(map(str, entry.layer.shape))
        rows.append((entry.layer.name, shape, *errors, entry.verdict.partition(":")[0]))
    print(table(("layer", "shape", "weight", "input", "output", "verdict"), rows, "relative RMS errors"))
    for verdict in dict.fromkeys(entry.verdict for entry in report.fallbacks):
        print(f"{verdict}: {', '.join(entry.layer.name for entry in report.fallbacks if entry.verdict == verdict)}")
    hidden = len(report.layers) - len(entries)
    print(
        f"{len(report.layers) - len(report.fallbacks)} of {len(report.layers)} layers in {report.options.precision}"
        + (f" ({hidden} with smaller errors not shown)" if hidden else "")
        + f"; {report.calibration} observations for layers from {report.source}"
    )
    print(f"{report.variation.observations} observations in all, {report.variation.distinct} of them distinct")
    for doubt in report.variation.warnings:
        print(f"warning: {doubt}")
    print_chunk(report)


def _output_error(entry: LayerVerdict) -> float:
    return 0.0 if entry.errors is None else entry.errors.output


def print_chunk(report: QuantizeReport) -> None:
    """The held-out chunk's figures in three lines."""
    chunk = report.chunk
    if chunk is None:
        return
    print(
        f"chunk on {chunk.observations} held-out observations ({report.options.runner}, beside {report.reference}): "
        f"cosine of normalised actions min {chunk.cosine_min:.6f}, mean {chunk.cosine_mean:.6f}; "
        f"relative error {chunk.relative_error:.4f}"
    )
    print(
        f"  without the gripper min {chunk.motion_cosine_min:.6f}, mean {chunk.motion_cosine_mean:.6f}; "
        f"final actions min {chunk.final_cosine_min:.6f}, mean {chunk.final_cosine_mean:.6f}"
    )
    if chunk.gripper_steps:
        print(
            f"  gripper sign differs in {chunk.gripper_flips} of {chunk.gripper_steps} steps "
            f"(scores there changed by at most {chunk.flip_score_change:.4f})"
        )
