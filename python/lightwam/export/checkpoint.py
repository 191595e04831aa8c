# SPDX-License-Identifier: Apache-2.0
"""A checkpoint folder opened for export: every weight checked, none copied (the networks share the mapped file)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lightwam.config import LightWAMConfig
from lightwam.data.normalize import normalizers, read_statistics
from lightwam.errors import CheckpointError
from lightwam.files import unreadable
from lightwam.model import HashedWordsEncoder, LightWAM, WanVAE
from lightwam.model.checkpoint_folder import INSTRUCTIONS_FILE, STATISTICS_FILE, load_checkpoint
from lightwam.model.fit import expected_shapes, find_faults, find_not_finite, load_exactly, on_meta, refuse
from lightwam.progress import progress_bar


@dataclass(frozen=True)
class PolicyCheckpoint:
    """Networks (in the stored types, ready to compute), statistics document, and instructions with ready rows."""

    config: LightWAMConfig
    model: LightWAM
    vae: WanVAE
    text_encoder: HashedWordsEncoder | None
    statistics: Mapping[str, Any]
    instructions: Mapping[str, torch.Tensor]


def open_checkpoint(
    folder: Path, replan_steps: int | None = None, show_progress: bool = False, statistics: Path | None = None
) -> PolicyCheckpoint:
    """Open a policy's checkpoint folder; `replan_steps` replaces the configuration's, `statistics` its stats.json.

    It holds config.json, model.safetensors with a VAE, stats.json, and perhaps instructions.safetensors. Raises
    `CheckpointError` for damaged files and for a key, shape or type that does not fit (`MisfitError` lists all), NaN or
    infinity, `DataError` without statistics, `ConfigError` for a bad configuration.
    """
    config, tensors = load_checkpoint(folder)
    if replan_steps is not None:
        config = replace(config, replan_steps=replan_steps)
    if not any(name.startswith("vae.") for name in tensors):
        raise CheckpointError(f"checkpoint folder {folder} holds no VAE: convert it again with --vae")
    document = read_statistics(statistics or folder / STATISTICS_FILE)
    normalizers(config, document)  # before the weights' numbers are read
    model, vae = on_meta(lambda: LightWAM(config)), on_meta(lambda: WanVAE(config.vae))
    text = on_meta(lambda: HashedWordsEncoder(config.text)) if config.text.kind == "hashed_words" else None
    parts = [("", model), ("vae.", vae), *([] if text is None else [("text_encoder.", text)])]
    expected = {prefix + name: shape for prefix, part in parts for name, shape in expected_shapes(part).items()}
    faults = find_faults(expected, tensors)
    with progress_bar("checking weights", sum(x.nbytes for x in tensors.values()), show_progress) as advance:
        faults += find_not_finite(tensors, advance)
    refuse(f"checkpoint folder {folder}", faults)
    for prefix, part in parts:
        own = {name: tensors[prefix + name] for name in expected_shapes(part)}
        load_exactly(part.eval(), own, f"checkpoint folder {folder}", adopt=True)
    vae.set_latent_statistics()
    rows = folder / INSTRUCTIONS_FILE
    instructions = read_instructions(rows) if rows.exists() else {}
    return PolicyCheckpoint(config, model, vae, text, document, instructions)


def read_instructions(path: Path) -> dict[str, torch.Tensor]:
    """Instruction text -> context rows of a safetensors file. Raises `CheckpointError`."""
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        told = unreadable(path, error, "give a safetensors file of context rows", ("safetensors",))
        raise CheckpointError(f"instructions {path} are {told}") from error
    return tensors
