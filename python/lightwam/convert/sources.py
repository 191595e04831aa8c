# SPDX-License-Identifier: Apache-2.0
"""Files and folders of weights that others publish, opened without reading their numbers and without running code.

`.safetensors` files (one, or shards with or without an index) and `torch.save` files are memory-mapped: a tensor's
numbers are read when they are used. Only a `torch.save` file of the format before PyTorch 1.6 is read at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightwam.errors import CheckpointError
from lightwam.files import read_json

_ZIP_MAGIC = b"PK\x03\x04"
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
_REASON = re.compile(r"(?:Unsupported|GLOBAL)[^.\n]*(?:\.[^\s.]+)*")


@dataclass(frozen=True)
class WeightsSource:
    """What a file or folder holds: names -> tensors (or, in a `torch.save` file, whatever else), and its settings.

    `settings` is the content of the `config.json` in the folder of the safetensors files, empty where there is none and
    for a `torch.save` file.
    """

    path: Path
    tensors: Mapping[str, Any]
    settings: Mapping[str, Any]


def open_weights(path: Path) -> WeightsSource:
    """Open a file (`.safetensors`, `.index.json`, `.pt`, `.pth`, `.bin`, `.ckpt`) or a folder of safetensors.

    Raises:
        CheckpointError: missing, truncated, damaged or foreign files; shards that are missing or do not fit their
            index; a `torch.save` file that holds more than plain data, or meta, sparse or nested tensors.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: give a file or folder of weights")
    if path.is_dir():
        return WeightsSource(path, _open_folder(path), _settings(path))
    if path.name.endswith(".index.json"):
        return WeightsSource(path, _open_index(path), _settings(path.parent))
    if path.suffix == ".safetensors":
        return WeightsSource(path, _open_shards(_all_shards(path)), _settings(path.parent))
    if path.suffix in _PICKLES:  # official releases keep the .pth of VAE and umT5 beside the config.json of the DiT
        return WeightsSource(path, _open_pickle(path), {})
    raise CheckpointError(f"{path} is of an unknown kind: give .safetensors, .index.json, {', '.join(_PICKLES)}")


def _open_folder(folder: Path) -> Mapping[str, Any]:
    """The folder's one set of weights: an index with its shards, all shards of one name, or one file."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if len(indices) == 1:
        return _open_index(indices[0])
    files = sorted(folder.glob("*.safetensors"))
    sets = {tuple(_all_shards(file)) for file in files}
    if len(indices) > 1 or len(sets) > 1:
        found = [file.name for file in (*indices, *files)]
        raise CheckpointError(f"{folder} holds several sets of weights ({', '.join(found)}): give the file of one")
    if not sets:
        raise CheckpointError(f"{folder} holds no .safetensors file: give the folder or file that holds the weights")
    return _open_shards(sets.pop())


def _all_shards(file: Path) -> list[Path]:
    """The file, or where it is one of N shards by its name all of them. Raises `CheckpointError` on missing ones."""
    match = _SHARD.fullmatch(file.name)
    if match is None:
        return [file]
    stem, digits, count = match[1], len(match[2]), int(match[3])
    names = [f"{stem}-{number:0{digits}d}-of-{match[3]}.safetensors" for number in range(1, count + 1)]
    absent = [name for name in names if not (file.parent / name).exists()]
    if absent:
        raise CheckpointError(f"{file.parent} lacks {len(absent)} of {count} shards ({absent[0]}): fetch them all")
    return [file.parent / name for name in names]


def _open_index(index: Path) -> Mapping[str, Any]:
    """The shards that an index names. Raises `CheckpointError` where it does not say which shard holds what."""
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map of names: fetch the index again")
    shards: dict[str, dict[str, Any]] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} names the shard {shard!r}: a shard lies beside its index")
        shards[shard] = _open_safetensors(index.parent / shard)
    misplaced = [key for key, shard in weight_map.items() if key not in shards[shard]]
    unlisted = [key for tensors in shards.values() for key in tensors if key not in weight_map]
    if misplaced or unlisted:
        first = (misplaced or unlisted)[0]
        raise CheckpointError(
            f"{index} and its shards differ in {len(misplaced) + len(unlisted)} tensors ({first}): "
            "fetch index and shards of one release"
        )
    return {key: shards[shard][key] for key, shard in weight_map.items()}


def _open_shards(files: Iterable[Path]) -> Mapping[str, Any]:
    tensors: dict[str, Any] = {}
    for file in files:
        more = _open_safetensors(file)
        twice = sorted(set(more) & set(tensors))
        if twice:
            raise CheckpointError(f"{file} holds {twice[0]}, which another shard holds too: fetch the shards again")
        tensors.update(more)
    return tensors


def _open_safetensors(file: Path) -> dict[str, Any]:
    try:
        tensors: dict[str, Any] = load_file(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"shard {file} is missing: fetch all files of the release") from error
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        reason = _first_line(error)
        raise CheckpointError(f"{file} is damaged or no safetensors file ({reason}): fetch it again") from error
    return tensors


def _open_pickle(file: Path) -> Mapping[str, Any]:
    """A `torch.save` file's dict; the unpickler knows tensors and plain data only, so nothing in the file is run."""
    try:
        with file.open("rb") as stream:
            mapped = stream.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        content = torch.load(str(file), map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch.load raises many classes on a file that is not what it seems
        found = _REASON.search(str(error))
        reason = found[0] if found else _first_line(error)
        raise CheckpointError(
            f"{file} is damaged or holds more than tensors and plain data ({reason}): nothing in it was run; "
            "fetch it again, or save its state dict"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{file} holds a {type(content).__name__}: it must be a dict of named tensors")
    _refuse_other_layouts(file, content)
    return content


def _refuse_other_layouts(file: Path, content: Mapping[str, Any]) -> None:
    """Raise on a tensor without one number after the other, at the top or in a part: its size cannot even be asked."""
    parts = [(f"{name}.", part) for name, part in content.items() if isinstance(part, Mapping)]
    for prefix, part in (("", content), *parts):
        for name, value in part.items():
            kind = _other_layout(value) if isinstance(value, Tensor) else None
            if kind is not None:
                raise CheckpointError(f"{file}: {prefix}{name} is a {kind} tensor: save it as a dense one on the CPU")


def _other_layout(tensor: Tensor) -> str | None:
    """'meta', 'nested' or 'sparse' (any other layout); None for a dense tensor in memory."""
    if tensor.is_meta:
        return "meta"
    if tensor.is_nested:
        return "nested"
    return None if tensor.layout == torch.strided else "sparse"


def _settings(folder: Path) -> Mapping[str, Any]:
    file = folder / "config.json"
    return _read_json(file) if file.exists() else {}


def _read_json(file: Path) -> dict[str, Any]:
    return read_json(file, "file", CheckpointError, "fetch it again")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
