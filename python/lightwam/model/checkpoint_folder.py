# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders: what training and `lightwam convert` leave behind (docs/reference/checkpoints.md).

A folder holds `config.json`, `model.safetensors` (published names; the VAE under `vae.`, the small text encoder under
`text_encoder.`), for a policy `stats.json`, and where instructions were encoded ahead of time
`instructions.safetensors`. It appears as a whole.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.errors import CheckpointError, LightWAMError
from lightwam.file_kind import FileKind, file_kind
from lightwam.files import check_output, read_json, replacing_folder, unreadable
from lightwam.model.fit import find_not_finite
from lightwam.model.unwrap import unwrap

CONFIG_FILE, WEIGHTS_FILE, STATISTICS_FILE = "config.json", "model.safetensors", "stats.json"
INSTRUCTIONS_FILE = "instructions.safetensors"
# In the order in which the safetensors library lays tensors out: wide types first, so that each is aligned.
_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ALIGNMENT = 8
_logger = logging.getLogger("lightwam.model")


def check_checkpoint_output(folder: Path, inputs: Iterable[Path | None] = ()) -> None:
    """Raise `CheckpointError` where a checkpoint may not be written: over an input, or over what is not a checkpoint
    of ours."""
    check_output(folder, "a checkpoint folder", CheckpointError, _is_checkpoint, inputs, folder=True)


def _is_checkpoint(folder: Path, kind: FileKind) -> bool:
    ours = {CONFIG_FILE, WEIGHTS_FILE, STATISTICS_FILE, INSTRUCTIONS_FILE}
    if not {entry.name for entry in folder.iterdir()} <= ours:
        return False
    try:
        _read_config(folder)
    except LightWAMError:
        return False
    return True


def save_checkpoint(
    folder: Path,
    config: LightWAMConfig,
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, Any] | None = None,
    instructions: Mapping[str, Tensor] | None = None,
    *,
    dtype: torch.dtype | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> int:
    """Write a checkpoint folder tensor by tensor; an older one of the same name is replaced as a whole.

    It is read back before it gets its name.

    Args:
        folder: where to write.
        config: the policy's configuration.
        weights: name -> floating-point tensor.
        statistics: the document of the statistics file (`lightwam.data.windows.measure_statistics`).
        instructions: instruction -> its context rows [n, text width].
        dtype: converts every weight; None keeps each as it is.
        on_bytes: receives the number of bytes written after each weight.

    Returns:
        The size of the weights' file in bytes.

    Raises:
        CheckpointError: a tensor that a safetensors file cannot hold, or that is not finite in its type; something
            other than a checkpoint in the folder's place. Nothing is replaced then.
    """
    check_checkpoint_output(folder)
    with replacing_folder(Path(folder).absolute()) as building:
        (building / CONFIG_FILE).write_text(json.dumps(config.to_dict(), indent=1) + "\n", encoding="utf-8")
        if statistics is not None:
            try:
                text = json.dumps(statistics, indent=1, allow_nan=False) + "\n"
            except ValueError as error:
                raise CheckpointError(f"statistics hold NaN or infinity ({error}): measure them again") from error
            (building / STATISTICS_FILE).write_text(text, encoding="utf-8")
        if instructions:
            write_safetensors(instructions, building / INSTRUCTIONS_FILE)
        size = write_safetensors(weights, building / WEIGHTS_FILE, dtype, on_bytes)
        _read_back(building, folder)
        return size


def _read_back(building: Path, folder: Path) -> None:
    try:
        load_checkpoint(building)
        if (building / INSTRUCTIONS_FILE).exists():
            load_file(building / INSTRUCTIONS_FILE)
    except (LightWAMError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {folder} could not be read back ({error}): nothing was replaced") from error


def load_checkpoint(folder: Path) -> tuple[LightWAMConfig, dict[str, Tensor]]:
    """Configuration and memory-mapped weights of a checkpoint folder. Raises `CheckpointError` when it is damaged.

    Names that a wrapper changed (`module.`, `_orig_mod.`) are unwrapped; the log (`lightwam.model`) says so.
    """
    kind = file_kind(folder)
    if kind.name != "missing" and not folder.is_dir():
        raise CheckpointError(
            f"checkpoint folder {folder} is {kind.what}: `lightwam convert` makes a folder of weights"
        )
    config, file = _read_config(folder), folder / WEIGHTS_FILE
    try:
        weights = load_file(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint folder {folder} lacks {file}: train it first, or convert one") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        told = unreadable(file, error, "train it again", ("safetensors",))
        raise CheckpointError(f"checkpoint folder {folder} is damaged: {WEIGHTS_FILE} is {told}") from error
    found = unwrap(f"checkpoint folder {folder}", weights, "policy")
    if found.note:
        _logger.info("checkpoint folder %s: %s", folder, found.note)
    return config, dict(found.content)


def _read_config(folder: Path) -> LightWAMConfig:
    file = folder / CONFIG_FILE
    if not file.exists():
        raise CheckpointError(f"checkpoint folder {folder} lacks {file}: train it first, or convert one")
    document = read_json(file, "checkpoint is damaged: configuration", CheckpointError, "train it again")
    return LightWAMConfig.from_dict(document)


def part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it. Raises `CheckpointError` when there is none."""
    chosen = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    if not chosen:
        raise CheckpointError(f"checkpoint holds no tensor under {prefix!r}: give a checkpoint of the right kind")
    return chosen


def write_safetensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    dtype: torch.dtype | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> int:
    """Write floating-point tensors; the bytes are those that the safetensors library would write.

    One tensor at a time: memory-mapped inputs pass through, no second copy of all of them is made.

    Args:
        tensors: name -> tensor of any layout; each is read once, in the order of the file.
        path: the file; callers write to a temporary name.
        dtype: converts every tensor; None keeps each as it is.
        on_bytes: receives the number of bytes written after each tensor.

    Returns:
        The size of the file in bytes.

    Raises:
        CheckpointError: a name that the format reserves or that is no Unicode, a type other than the four above, or
            numbers that are not finite in the type they are stored in.
    """
    formats = {name: dtype or tensor.dtype for name, tensor in tensors.items()}
    for name, kind in formats.items():
        if name == "__metadata__" or kind not in _NAMES:
            raise CheckpointError(f"tensor {name!r} of type {kind} cannot be stored: rename it, or convert it to float")
    widest_first = list(_NAMES)
    order = sorted(tensors, key=lambda name: (widest_first.index(formats[name]), name))
    header: dict[str, object] = {}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].numel() * formats[name].itemsize
        header[name] = {
            "dtype": _NAMES[formats[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"a tensor's name is no Unicode text ({error.reason}): rename it") from error
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name in order:
            stored = tensors[name].detach().to("cpu", formats[name])
            if find_not_finite({name: stored}):
                (fault,) = find_not_finite({name: tensors[name]}, dtype=formats[name])
                raise CheckpointError(f"tensor {fault}: such weights cannot be used; nothing was replaced")
            written = file.write(_bytes(stored))
            if on_bytes is not None:
                on_bytes(written)
    return 8 + len(text) + end


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
