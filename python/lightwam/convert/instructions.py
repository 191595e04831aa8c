# SPDX-License-Identifier: Apache-2.0
"""Ready context rows of instructions: through the umT5 encoder, or from the published text caches.

The rows go into `instructions.safetensors` beside a checkpoint's weights: instruction -> rows [n, text width], zero
rows at the end dropped. `lightwam export` carries them in the engine, because umT5 never runs on a robot.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightwam.config import LightWAMConfig, TextConfig
from lightwam.convert.settings import check_settings
from lightwam.convert.sources import WeightsSource, open_weights
from lightwam.errors import CheckpointError, ConfigError, InstructionError
from lightwam.files import replacing_file
from lightwam.model import UMT5Encoder, umt5_tokenizer
from lightwam.model.fit import (
    Fault,
    expected_shapes,
    find_faults,
    find_not_finite,
    is_finite,
    load_exactly,
    on_meta,
    refuse,
)
from lightwam.model.names import UMT5_TIED, umt5_names
from lightwam.model.text import Tokenizer, prompt
from lightwam.progress import progress_bar

_logger = logging.getLogger("lightwam.convert")


def check_instructions(texts: Sequence[str], text: TextConfig) -> None:
    """Raise `InstructionError` or `ConfigError` unless each is a sentence, given once, for a policy that needs rows."""
    if texts and text.kind != "umt5":
        raise ConfigError(
            f"--instructions is given but text.kind is {text.kind!r}: this policy encodes words by itself"
        )
    for instruction in texts:
        prompt(text, instruction)  # refuses what is no sentence
    twice = {instruction for instruction in texts if list(texts).count(instruction) > 1}
    if twice:
        raise InstructionError(f"instructions {sorted(twice)} are given twice: give each once")


def open_umt5(config: LightWAMConfig, source: WeightsSource, choice: str | None = None) -> dict[str, Any]:
    """The source's tensors under the names of transformers; `choice`: the set to take where it holds several.

    Raises `CheckpointError` on contradicting settings, and as `WeightsSource.unwrapped` does.
    """
    check_settings(source, config, "text")
    source = source.unwrapped("text", choice)
    if source.note:
        _logger.info("%s", source.note)
    return {name: source.tensors[key] for key, name in umt5_names(source.tensors).items()}


def umt5_faults(
    config: TextConfig, weights: Mapping[str, Any], on_bytes: Callable[[int], None] | None = None
) -> list[Fault]:
    """All that does not fit the configured encoder; reads every number."""
    expected = expected_shapes(on_meta(lambda: UMT5Encoder(config)), leave=(UMT5_TIED,))
    named = {f"encoder.{name}": value for name, value in weights.items()}
    return [*find_faults(expected, named), *find_not_finite(named, on_bytes)]


@torch.inference_mode()
def encode_instructions(
    config: TextConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer, texts: Sequence[str]
) -> dict[str, Tensor]:
    """Context rows [n, E] of each text, in the type of the weights, which stay memory-mapped.

    Raises:
        CheckpointError: weights that do not fit, or rows that are not finite.
    """
    encoder = on_meta(lambda: UMT5Encoder(config, tokenizer)).eval()
    load_exactly(encoder.encoder, weights, "umT5 checkpoint", leave=(UMT5_TIED,), adopt=True)
    model: Any = encoder.encoder
    model.set_input_embeddings(model.shared)  # transformers keeps its table twice; the second is still on meta
    return {text: _trimmed(encoder([text]).rows[0], text) for text in texts}


def cache_name(text: TextConfig, instruction: str) -> str:
    """The file name of an instruction in a published text cache. Source: docs/reference/light-wam.md, section 6."""
    digest = hashlib.sha256(prompt(text, instruction).encode()).hexdigest()
    return f"{digest}.t5_len{text.length}.wan21t2v13b.pt"


def write_text_cache(config: LightWAMConfig, folder: Path, texts: Sequence[str], encoder: Path, tokenizer: Path) -> int:
    """Encode the texts that a published text cache lacks, and write their files; returns their number.

    A file holds `context` [length, width], zero past the text, and `mask` [length], as the published code reads them.
    Each appears whole, so several processes may fill one folder. Raises `CheckpointError`, `InstructionError`.
    """
    check_instructions(texts, config.text)
    missing = [text for text in texts if not (folder / cache_name(config.text, text)).exists()]
    if not missing:
        return 0
    reader = umt5_tokenizer(os.fspath(tokenizer))
    weights = open_umt5(config, open_weights(encoder))
    refuse(os.fspath(encoder), umt5_faults(config.text, weights))
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar("encoding texts", len(missing), show=True) as advance:
        for text in missing:
            rows = encode_instructions(config.text, weights, reader, [text])[text]
            context = torch.nn.functional.pad(rows, (0, 0, 0, config.text.length - len(rows)))
            mask = torch.arange(config.text.length) < len(rows)
            with replacing_file(folder / cache_name(config.text, text)) as part:
                torch.save({"context": context.to(torch.bfloat16), "mask": mask}, part)
            advance(1)
    return len(missing)


def cached_instructions(config: TextConfig, folder: Path, texts: Sequence[str]) -> dict[str, Tensor]:
    """Context rows [n, E] of each text from a folder of published text caches, in their own type.

    Raises:
        InstructionError: the folder has no file of a text.
        CheckpointError: a file is damaged or of another shape.
    """
    return {text: _cached(config, folder / cache_name(config, text), text) for text in texts}


def _cached(config: TextConfig, file: Path, text: str) -> Tensor:
    if not file.exists():
        raise InstructionError(
            f"text cache of {text!r} is missing: {file} does not exist; encode it with --text-encoder and "
            "--tokenizer instead"
        )
    content = open_weights(file).tensors
    rows, mask = content.get("context"), content.get("mask")
    wanted = (config.length, config.width)
    if not isinstance(rows, Tensor) or not rows.is_floating_point() or tuple(rows.shape) != wanted:
        given = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise CheckpointError(f"{file}: context is {given}: it must be numbers {list(wanted)}")
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != wanted[:1]:
        raise CheckpointError(f"{file}: mask must be {wanted[0]} booleans: fetch the cache again")
    return _trimmed(rows * mask[:, None].to(rows.dtype), text)


def _trimmed(rows: Tensor, text: str) -> Tensor:
    """Rows up to the last one that is not zero."""
    if not is_finite(rows):
        raise CheckpointError(f"context of {text!r} holds NaN or infinity: the text encoder's weights are damaged")
    filled = rows.abs().sum(1).nonzero()
    if len(filled) == 0:
        raise CheckpointError(f"context of {text!r} is zero: the text encoder's weights or cache are damaged")
    return rows[: int(filled[-1]) + 1].clone()
