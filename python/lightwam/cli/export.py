# SPDX-License-Identifier: Apache-2.0
"""`lightwam export`: a checkpoint folder, or random weights of a configuration -> one engine file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lightwam.config import read_config
from lightwam.engine.file import check_engine_output
from lightwam.engine.graph import Precision
from lightwam.errors import ExportError
from lightwam.export.exporter import ExportReport, write_policy
from lightwam.export.options import ExportOptions
from lightwam.export.sources import export_folder, random_policy
from lightwam.quantize.layers import float_precision, in_precision


@dataclass(frozen=True)
class ExportArgs:
    """Fold a checkpoint into one engine file."""

    out: Path
    """The engine file to write (*.lwam)."""
    checkpoint: Path | None = None
    """Checkpoint folder: config.json, model.safetensors, stats.json."""
    random: Literal["libero", "robotwin", "nano"] | None = None
    """Instead of a checkpoint: random weights of this configuration (for latency, not for robots)."""
    config: Path | None = None
    """Instead of a name for --random: random weights of the configuration, or robot, in this file."""
    seed: int = 0
    """Seed of the random weights."""
    precision: Precision = "f32"
    """What matmuls compute in; int8 and fp8 with random weights only (for a checkpoint: bf16, then lightwam
    quantize)."""
    weights: Literal["f32", "bf16"] | None = None
    """How weights are stored; bf16 halves an f32 engine's file."""
    streams: Literal["f32", "f16"] = "f32"
    """The backbone's residual stream; f16 moves fewer bytes on a GPU, in bf16, f16 and int8 engines (export.md)."""
    name: str | None = None
    """The policy's name; that of the configuration when absent."""
    instructions: Path | None = None
    """safetensors file: instruction text -> context rows [n, text width], for policies without a small text encoder."""
    stats: Path | None = None
    """Statistics of states and actions (JSON; ours, LeRobot's or openpi's) in place of the checkpoint's."""
    known: tuple[str, ...] = ()
    """Instructions to carry ready-made, their rows from the checkpoint's own text encoder."""
    cross_output: Literal["auto", "folded", "projected"] = "auto"
    """Value and output projection of each cross-attention key as one vector, or not; auto: what is faster."""
    replan_steps: int | None = None
    """Actions to execute before the next chunk; the configuration's when absent."""
    targets: str | None = None
    """Add a launch plan and machine code for these GPUs, as lightwam compile does: sm_87,sm_110,..."""
    parity_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the inputs on which folded graph and PyTorch model are compared (checkpoints only)."""

    @property
    def options(self) -> ExportOptions:
        return ExportOptions(
            precision=float_precision(self.precision),
            weight_dtype=self.weights,
            stream_dtype=self.streams,
            name=self.name,
            cross_output=self.cross_output,
            parity_seeds=self.parity_seeds,
        )


def main(arguments: ExportArgs) -> int:
    """Export and print one line. Raises `ExportError`, `CheckpointError`, `ConfigError`, `DataError`."""
    _check(arguments)
    if arguments.targets is not None:
        from lightwam.gpu.compile import CompileOptions, compile_engine, parse_targets

        compilation = CompileOptions(parse_targets(arguments.targets))  # before minutes of work
    if arguments.checkpoint is not None:
        report, checked = _from_checkpoint(arguments, arguments.checkpoint)
    else:
        report, checked = _from_random_weights(arguments)
    lines = [f"{report.path}: {report.num_bytes / 1e6:.1f} MB, {report.gflop:.3f} GFLOP a chunk, {checked}"]
    try:
        if arguments.targets is not None:
            lines += compile_engine(arguments.out, arguments.out, compilation, show_progress=True).summary()
    finally:
        print("\n".join(lines))  # last: a terminal that cannot show it keeps nothing from being written
    return 0


def _check(arguments: ExportArgs) -> None:
    check_engine_output(arguments.out, (arguments.instructions, arguments.config, arguments.stats))
    sources = (arguments.checkpoint, arguments.random, arguments.config)
    if sum(source is not None for source in sources) != 1:
        raise ExportError(
            "checkpoint, random and config: give exactly one of --checkpoint and --random, or --config in its place"
        )
    if min((arguments.seed, *arguments.parity_seeds)) < 0:
        raise ExportError(f"seed {arguments.seed}, parity seeds {arguments.parity_seeds}: use numbers from 0 on")
    if arguments.checkpoint is None and (arguments.instructions or arguments.known or arguments.stats):
        raise ExportError(
            "--instructions, --known and --stats need --checkpoint: random weights carry an instruction of their own"
        )
    if arguments.checkpoint is not None and arguments.precision in ("int8", "fp8"):
        raise ExportError(
            f"precision is {arguments.precision}: export the checkpoint in bf16, then use lightwam quantize "
            f"--format {arguments.precision} --calibration"
        )


def _from_checkpoint(arguments: ExportArgs, folder: Path) -> tuple[ExportReport, str]:
    report = export_folder(
        folder,
        arguments.out,
        arguments.options,
        replan_steps=arguments.replan_steps,
        instructions=arguments.instructions,
        known=arguments.known,
        statistics=arguments.stats,
        show_progress=True,
    )
    parity = report.parity
    if parity is None:
        return report, "parity not measured"
    return report, f"parity: relative error {parity.relative_error:.2g}, cosine {parity.cosine:.7f}"


def _from_random_weights(arguments: ExportArgs) -> tuple[ExportReport, str]:
    config = read_config(arguments.config or str(arguments.random))
    if arguments.replan_steps is not None:
        config = replace(config, replan_steps=arguments.replan_steps)
    graph = in_precision(random_policy(config, arguments.options, arguments.seed), arguments.precision)
    report = write_policy(graph, config, arguments.out, {"random_seed": arguments.seed}, show_progress=True)
    return report, f"random weights of seed {arguments.seed}"
