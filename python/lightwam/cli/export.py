# SPDX-License-Identifier: Apache-2.0
"""`lightwam export`: a checkpoint folder, or random weights of a named configuration -> one engine file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from lightwam.config import LightWAMConfig
from lightwam.engine.file import write_engine
from lightwam.engine.graph import Precision
from lightwam.errors import ExportError
from lightwam.export.api import build_policy_graph, export_engine, with_provenance
from lightwam.export.build import BuildOptions
from lightwam.export.checkpoint import PolicyCheckpoint, open_checkpoint, read_instructions
from lightwam.export.weights import RandomWeights
from lightwam.gpu import require_triton
from lightwam.model.checkpoint_folder import WEIGHTS_FILE
from lightwam.model.text import HashedWordsEncoder
from lightwam.progress import progress_bar
from lightwam.quantize.layers import float_precision, in_precision

RANDOM_INSTRUCTION = "pick up the alphabet soup and place it in the basket"


@dataclass(frozen=True)
class ExportArgs:
    """Fold a checkpoint into one engine file."""

    out: Path
    """The engine file to write (*.lwam)."""
    checkpoint: Path | None = None
    """Checkpoint folder: config.json, model.safetensors, stats.json."""
    random: Literal["libero", "robotwin", "nano"] | None = None
    """Instead of a checkpoint: random weights of this configuration (for latency, not for robots)."""
    seed: int = 0
    """Seed of the random weights."""
    precision: Precision = "f32"
    """What the matrix products compute in; int8 and fp8 with --random only (for a checkpoint: bf16, then lightwam
    quantize)."""
    weights: Literal["f32", "bf16"] | None = None
    """How weights are stored; bf16 halves an f32 engine's file."""
    streams: Literal["f32", "f16"] = "f32"
    """The backbone's token stream; f16 moves fewer bytes on a GPU, in bf16, f16 and int8 engines (export.md)."""
    name: str | None = None
    """The policy's name; that of the configuration when absent."""
    instructions: Path | None = None
    """safetensors file: instruction text -> context rows [n, text width], for policies without a small text encoder."""
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


def main(arguments: ExportArgs) -> int:
    """Export and print one line. Raises `ExportError`, `CheckpointError`, `ConfigError`, `DataError`."""
    if (arguments.checkpoint is None) == (arguments.random is None):
        raise ExportError("checkpoint and random: give exactly one of --checkpoint and --random")
    if min((arguments.seed, *arguments.parity_seeds)) < 0:
        raise ExportError(f"seed {arguments.seed}, parity seeds {arguments.parity_seeds}: use numbers from 0 on")
    if arguments.random is not None and (arguments.instructions is not None or arguments.known):
        raise ExportError(
            "--instructions and --known need --checkpoint: random weights carry an instruction of their own"
        )
    targets = None if arguments.targets is None else _targets(arguments.targets)  # before minutes of work
    if arguments.random is not None:
        export_random(arguments)
    else:
        assert arguments.checkpoint is not None
        export_checkpoint(arguments, arguments.checkpoint)
    if targets is not None:
        from lightwam.gpu.compile import CompileOptions, compile_engine

        made = compile_engine(arguments.out, arguments.out, CompileOptions(targets), show_progress=True)
        print("\n".join(made.summary()))
    return 0


def _targets(text: str) -> tuple[str, ...]:
    require_triton("compiling for GPUs")
    from lightwam.gpu.compile import parse_targets

    return parse_targets(text)


def export_checkpoint(arguments: ExportArgs, folder: Path) -> None:
    """Load a checkpoint folder, export it, print size and parity."""
    if arguments.precision == "int8" or arguments.precision == "fp8":
        raise ExportError(
            f"precision is {arguments.precision}: export the checkpoint in bf16, then use lightwam quantize "
            f"--format {arguments.precision} --calibration"
        )
    checkpoint = open_checkpoint(folder, arguments.replan_steps, show_progress=True)
    report = export_engine(
        checkpoint.model,
        arguments.out,
        vae=checkpoint.vae,
        text_encoder=checkpoint.text_encoder,
        instructions=_known_instructions(arguments, checkpoint),
        normalizer=checkpoint.statistics,
        precision=arguments.precision,
        weight_dtype=arguments.weights,
        stream_dtype=arguments.streams,
        name=arguments.name,
        cross_output=arguments.cross_output,
        provenance={"checkpoint_sha256": file_sha256(folder / WEIGHTS_FILE, show_progress=True)},
        parity_seeds=arguments.parity_seeds,
        show_progress=True,
    )
    parity = "parity not measured"
    if report.parity is not None:
        parity = f"parity: relative error {report.parity.relative_error:.2g}, cosine {report.parity.cosine:.7f}"
    print(f"{report.path}: {report.num_bytes / 1e6:.1f} MB, {report.gflop:.3f} GFLOP a chunk, {parity}")


def export_random(arguments: ExportArgs) -> None:
    """Make, fold and write random weights tensor by tensor; no more than a few layers are in memory at once."""
    presets = {"libero": LightWAMConfig.libero, "robotwin": LightWAMConfig.robotwin, "nano": LightWAMConfig.nano}
    config = _with_replan(presets[str(arguments.random)](), arguments.replan_steps)
    hashed = config.text.kind == "hashed_words"
    rows = np.random.default_rng(arguments.seed).standard_normal((20, config.text.width))
    graph = build_policy_graph(
        config,
        RandomWeights(arguments.seed),
        BuildOptions(
            float_precision(arguments.precision),
            arguments.weights,
            arguments.streams,
            name=arguments.name or f"random-{config.name}",
            cross_output=arguments.cross_output,
        ),
        hashed,
        None if hashed else {RANDOM_INSTRUCTION: rows},
    )
    graph = in_precision(graph, arguments.precision)
    graph = with_provenance(graph, config, None, {"random_seed": arguments.seed})
    with progress_bar("writing", graph.constant_bytes(), show=True) as advance:
        size = write_engine(graph, arguments.out, advance)
    gflop = graph.provenance["gflop"]
    print(f"{arguments.out}: {size / 1e6:.1f} MB, {gflop:.3f} GFLOP a chunk, random weights of seed {arguments.seed}")


def _with_replan(config: LightWAMConfig, replan_steps: int | None) -> LightWAMConfig:
    return config if replan_steps is None else replace(config, replan_steps=replan_steps)


@torch.no_grad()
def encode_known(encoder: HashedWordsEncoder | None, texts: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Instruction text -> context rows by the checkpoint's encoder. Raises `ExportError` if it has none."""
    if texts and encoder is None:
        raise ExportError(f"known is {texts}: this checkpoint has no text encoder, give --instructions with their rows")
    return {} if encoder is None else {text: encoder([text]).rows[0] for text in texts}


def _known_instructions(arguments: ExportArgs, checkpoint: PolicyCheckpoint) -> dict[str, torch.Tensor]:
    """Rows from the checkpoint folder, from --instructions, and of --known. Raises `ExportError` on one given twice."""
    given = {} if arguments.instructions is None else read_instructions(arguments.instructions)
    encoded = encode_known(checkpoint.text_encoder, arguments.known)
    known: dict[str, torch.Tensor] = {}
    for rows in (checkpoint.instructions, given, encoded):
        twice = sorted(set(known) & set(rows))
        if twice:
            raise ExportError(
                f"instruction {twice[0]!r} is given twice (checkpoint, --instructions, --known): give once"
            )
        known.update(rows)
    return known


def file_sha256(path: Path, show_progress: bool = False) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream, progress_bar("hashing", path.stat().st_size, show_progress) as advance:
        while block := stream.read(1 << 20):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()
