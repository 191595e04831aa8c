# SPDX-License-Identifier: Apache-2.0
"""A checkpoint folder, or random weights of a configuration, on their way to an engine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lightwam.arithmetic import default_arithmetic
from lightwam.config import LightWAMConfig
from lightwam.engine.file import check_engine_output
from lightwam.engine.graph import Graph
from lightwam.engine.inputs import RANDOM_INSTRUCTION
from lightwam.errors import ExportError
from lightwam.export.checkpoint import PolicyCheckpoint, open_checkpoint, read_instructions
from lightwam.export.exporter import ExportReport, export_engine
from lightwam.export.instructions import build_policy_graph
from lightwam.export.options import ExportOptions
from lightwam.export.weights import RandomWeights
from lightwam.model.checkpoint_folder import WEIGHTS_FILE
from lightwam.progress import progress_bar

_RANDOM_ROWS = 20  # context rows of the made-up instruction


@default_arithmetic
def export_folder(
    folder: Path,
    out: Path,
    options: ExportOptions,
    *,
    replan_steps: int | None = None,
    instructions: Path | None = None,
    known: tuple[str, ...] = (),
    statistics: Path | None = None,
    show_progress: bool = False,
) -> ExportReport:
    """Export a policy's checkpoint folder; the digest of its weights goes into the engine's provenance.

    `replan_steps` replaces the configuration's, the file `statistics` the folder's stats.json. Beside the folder's own
    instructions: those of the safetensors file `instructions`, text -> context rows [n, text width], and `known` ones,
    by the folder's text encoder.

    Raises what `open_checkpoint` and `export_engine` do; `ExportError` for an instruction that is given twice.
    """
    check_engine_output(out, (instructions, statistics))
    checkpoint = open_checkpoint(folder, replan_steps, show_progress, statistics)
    rows = _known_instructions(checkpoint, instructions, known)
    digest = file_sha256(folder / WEIGHTS_FILE, show_progress)
    return export_engine(
        checkpoint.model,
        out,
        replace(options, provenance={**(options.provenance or {}), "checkpoint_sha256": digest}),
        vae=checkpoint.vae,
        text_encoder=checkpoint.text_encoder,
        instructions=rows,
        normalizer=checkpoint.statistics,
        show_progress=show_progress,
    )


def _known_instructions(
    checkpoint: PolicyCheckpoint, file: Path | None, texts: tuple[str, ...]
) -> Mapping[str, torch.Tensor]:
    """Rows from the checkpoint folder, from a file, and by its encoder. Raises `ExportError` on one given twice."""
    known: dict[str, torch.Tensor] = {}
    for rows in (
        checkpoint.instructions,
        {} if file is None else read_instructions(file),
        _encode(checkpoint, texts),
    ):
        twice = sorted(set(known) & set(rows))
        if twice:
            raise ExportError(
                f"instruction {twice[0]!r} is given twice (checkpoint, --instructions, --known): give once"
            )
        known.update(rows)
    return known


@torch.no_grad()
def _encode(checkpoint: PolicyCheckpoint, texts: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Instruction text -> context rows by the checkpoint's encoder. Raises `ExportError` if it has none."""
    encoder = checkpoint.text_encoder
    if texts and encoder is None:
        raise ExportError(f"known is {texts}: this checkpoint has no text encoder, give --instructions with their rows")
    return {} if encoder is None else {text: encoder([text]).rows[0] for text in texts}


def file_sha256(path: Path, show_progress: bool = False) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream, progress_bar("hashing", path.stat().st_size, show_progress) as advance:
        while block := stream.read(1 << 20):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


@default_arithmetic
def random_policy(config: LightWAMConfig, options: ExportOptions, seed: int) -> Graph:
    """The graph of random weights, made tensor by tensor as it is written; its one instruction is made up too."""
    hashed = config.text.kind == "hashed_words"
    rows = np.random.default_rng(seed).standard_normal((_RANDOM_ROWS, config.text.width))
    return build_policy_graph(
        config,
        RandomWeights(seed),
        replace(options, name=options.name or f"random-{config.name}"),
        hashed,
        None if hashed else {RANDOM_INSTRUCTION: rows},
    )
