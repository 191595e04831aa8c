# SPDX-License-Identifier: Apache-2.0
"""Released checkpoints -> a checkpoint folder of our own (docs/reference/checkpoints.md).

Everything is opened and checked before anything is written, and the folder appears only when it is whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightwam.arithmetic import default_arithmetic
from lightwam.config import LightWAMConfig, read_config
from lightwam.convert.gather import Gathered
from lightwam.convert.instructions import (
    cached_instructions,
    check_instructions,
    encode_instructions,
    open_umt5,
    umt5_faults,
)
from lightwam.convert.sources import open_weights
from lightwam.data.normalize import normalizers, read_statistics
from lightwam.errors import ConfigError, DataError
from lightwam.model import umt5_tokenizer
from lightwam.model.checkpoint_folder import check_checkpoint_output, save_checkpoint
from lightwam.model.fit import refuse
from lightwam.model.fresh import fresh_parts
from lightwam.progress import progress_bar


@dataclass(frozen=True)
class ConvertArgs:
    """Turn released checkpoints into a checkpoint folder."""

    out: Path
    """The checkpoint folder to write; an older one is replaced."""
    config: str
    """libero, robotwin, nano, a JSON file in our field names or the published ones, or a robot file."""
    policy: Path | None = None
    """A released policy (.pt): LoRA, adapters, action expert, and the backbone."""
    dit: Path | None = None
    """A Wan2.1 video DiT (file, shards or folder; official or diffusers), where the policy holds none."""
    fresh: int | None = None
    """With --dit and no --policy: seed of the first values of what no Wan2.1 file holds. A start for training."""
    vae: Path | None = None
    """A Wan2.1 VAE (official .pth, or a diffusers folder). Engines that start at images need it."""
    stats: Path | None = None
    """Statistics of states and actions (JSON). Engines in robot units need it."""
    instructions: tuple[str, ...] = ()
    """Instructions whose context rows to store; they come from --text-encoder or from --text-cache."""
    text_encoder: Path | None = None
    """The umT5 encoder (official .pth, or a transformers folder); needs --tokenizer."""
    tokenizer: Path | None = None
    """Folder of umT5's tokenizer."""
    text_cache: Path | None = None
    """Folder of published text caches ({sha256 of the prompt}.t5_len128.wan21t2v13b.pt), instead of --text-encoder."""
    dtype: Literal["keep", "f32", "bf16"] = "keep"
    """Type of the stored weights; keep leaves each as it is."""
    weights: str | None = None
    """Which set of weights to take from a file that holds several, by its name there: ema, model, ..."""


@dataclass(frozen=True)
class ConvertReport:
    """What was written: the policy's weights, the size of their file in bytes, and whether a VAE is among them.

    `notes`: a line for each file that was unwrapped.
    """

    weights: Mapping[str, Tensor]
    num_bytes: int
    has_vae: bool
    notes: tuple[str, ...] = ()


@default_arithmetic
def convert_checkpoint(arguments: ConvertArgs) -> ConvertReport:
    """Write the folder. Raises `CheckpointError`, `ConfigError`, `DataError`, `InstructionError`."""
    _check_options(arguments)
    config = read_config(arguments.config)
    check_instructions(arguments.instructions, config.text)
    statistics = None if arguments.stats is None else _read_statistics(arguments.stats, config)
    gathered = _gather(arguments, config)
    # Before the policy's numbers are read: the two largest inputs are then not in memory together.
    rows = {} if gathered.misfits() else _instruction_rows(arguments, config)
    with progress_bar("checking weights", gathered.num_bytes(), show=True) as advance:
        dtype = {"keep": None, "f32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
        weights = gathered.checked(_sources(arguments, gathered), advance, dtype)
    total = sum(tensor.numel() * (dtype or tensor.dtype).itemsize for tensor in weights.values())
    with progress_bar("writing", total, show=True) as advance:
        size = save_checkpoint(arguments.out, config, weights, statistics, rows, dtype=dtype, on_bytes=advance)
    return ConvertReport(weights, size, gathered.has_vae, tuple(gathered.notes))


def _check_options(arguments: ConvertArgs) -> None:
    """Refuse options that contradict each other, and a folder that is not ours to replace."""
    if (arguments.policy is None) == (arguments.dit is None):
        raise ConfigError("policy and dit: give exactly one of --policy and --dit (a released policy holds its DiT)")
    if (arguments.dit is None) != (arguments.fresh is None):
        raise ConfigError(
            "dit and fresh: give --dit with --fresh SEED, the seed of the parts that no Wan2.1 file holds"
        )
    if arguments.fresh is not None and arguments.fresh < 0:
        raise ConfigError(f"--fresh is {arguments.fresh}: use a seed of at least 0")
    encoders = (arguments.text_encoder, arguments.text_cache)
    if bool(arguments.instructions) != any(encoder is not None for encoder in encoders) or all(encoders):
        raise ConfigError(
            "--instructions needs --text-encoder or --text-cache (one of them), and each of them needs it"
        )
    if (arguments.text_encoder is None) != (arguments.tokenizer is None):
        raise ConfigError("text_encoder and tokenizer: give both --text-encoder and --tokenizer, or neither")
    given = (arguments.policy, arguments.dit, arguments.vae, arguments.stats, arguments.text_encoder,
             arguments.tokenizer, arguments.text_cache)  # fmt: skip
    check_checkpoint_output(arguments.out, given)


def _read_statistics(path: Path, config: LightWAMConfig) -> dict[str, Any]:
    """The statistics file's content, everything that the configuration's normalisation needs checked."""
    document = read_statistics(path)
    place = _place_not_finite(document)
    if place is not None:
        raise DataError(f"statistics file {path}: {place} is NaN or infinite: measure the statistics again")
    normalizers(config, document)
    return document


def _place_not_finite(document: Mapping[str, Any]) -> str | None:
    """Where first a JSON document holds NaN or infinity ('state.default.global_std.2'); None where it holds neither."""
    remaining: list[tuple[str, Any]] = [("", document)]
    while remaining:
        place, value = remaining.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return place.lstrip(".")
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        remaining += reversed([(f"{place}.{key}", entry) for key, entry in entries])
    return None


def _gather(arguments: ConvertArgs, config: LightWAMConfig) -> Gathered:
    gathered = Gathered(config, arguments.weights)
    if arguments.policy is not None:
        gathered.add_policy(open_weights(arguments.policy))
    if arguments.dit is not None:
        gathered.add_dit(open_weights(arguments.dit))
    if arguments.vae is not None:
        gathered.add_vae(open_weights(arguments.vae))
    if arguments.fresh is not None:
        gathered.weights.update(fresh_parts(config, arguments.fresh))
    return gathered


def _sources(arguments: ConvertArgs, gathered: Gathered) -> str:
    given = (arguments.policy, arguments.dit, arguments.vae)
    told = f" ({'; '.join(gathered.notes)})" if gathered.notes else ""
    return " + ".join(os.fspath(path) for path in given if path is not None) + told


def _instruction_rows(arguments: ConvertArgs, config: LightWAMConfig) -> dict[str, Tensor]:
    if arguments.text_cache is not None:
        return cached_instructions(config.text, arguments.text_cache, arguments.instructions)
    if arguments.text_encoder is None or arguments.tokenizer is None:
        return {}
    tokenizer = umt5_tokenizer(os.fspath(arguments.tokenizer))  # first: it is small, and may be missing
    weights = open_umt5(config, open_weights(arguments.text_encoder), arguments.weights)
    total = sum(value.nbytes for value in weights.values() if isinstance(value, Tensor))
    with progress_bar("checking umT5", total, show=True) as advance:
        refuse(os.fspath(arguments.text_encoder), umt5_faults(config.text, weights, advance))
    with progress_bar("encoding instructions", len(arguments.instructions), show=True) as advance:
        rows: dict[str, Tensor] = {}
        for text in arguments.instructions:
            rows.update(encode_instructions(config.text, weights, tokenizer, [text]))
            advance(1)
    return rows
