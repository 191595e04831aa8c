# SPDX-License-Identifier: Apache-2.0
"""Files and folders of weights that others publish, opened without reading their numbers and without running code.

Safetensors files (one, or shards with or without an index) and `torch.save` files are memory-mapped: a tensor's
numbers are read when they are used. Only a `torch.save` file of the format before PyTorch 1.6 is read at once. What a
file is follows from its content, not from its name.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightwam.errors import CheckpointError
from lightwam.file_kind import FileKind, file_kind
from lightwam.files import read_json
from lightwam.model.unwrap import Network, unwrap

_ZIP_MAGIC = b"PK\x03\x04"
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.(safetensors|bin)")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
_WANTED = "give weights that safetensors or torch.save wrote"
_REASON = re.compile(r"(?:Unsupported|GLOBAL)[^.\n]*(?:\.[^\s.]+)*")


@dataclass(frozen=True)
class WeightsSource:
    """What a file or folder holds: names -> tensors (or, in a `torch.save` file, whatever else), and its settings.

    `settings` is the content of the `config.json` in the folder of the safetensors files, empty where there is none and
    for a `torch.save` file. `note` says what was unwrapped, `chosen` whether a choice among several sets was used.
    """

    path: Path
    tensors: Mapping[str, Any]
    settings: Mapping[str, Any]
    note: str = ""
    chosen: bool = False

    def unwrapped(self, network: Network, choice: str | None = None) -> WeightsSource:
        """With the network's own names. Raises `CheckpointError` as `lightwam.model.unwrap.unwrap` does."""
        found = unwrap(str(self.path), self.tensors, network, choice)
        note = f"{self.path}: {found.note}" if found.note else ""
        return replace(self, tensors=found.content, note=note, chosen=found.chosen)


def open_weights(path: Path) -> WeightsSource:
    """Open a safetensors or `torch.save` file of any name, an index (`.index.json`) of their shards, or a folder.

    Raises:
        CheckpointError: missing, truncated, damaged or foreign files, named for what they are; shards that are missing
            or do not fit their index; a `torch.save` file that holds more than plain data, or meta, sparse or nested
            tensors.
    """
    kind = file_kind(path)
    if kind.name == "missing":
        raise CheckpointError(f"{path} does not exist: give a file or folder of weights")
    if path.is_dir():
        if kind.remedy:
            raise CheckpointError(f"{path} is {kind}")
        return WeightsSource(path, _open_folder(path), _settings(path))
    if path.name.endswith(".index.json"):
        return WeightsSource(path, _open_index(path), _settings(path.parent))
    # Official releases keep the .pth of VAE and umT5 beside the config.json of the DiT: it says nothing of them.
    settings = _settings(path.parent) if _reader(path, kind) is _open_safetensors else {}
    return WeightsSource(path, _open_shards(_all_shards(path)), settings)


def _reader(file: Path, kind: FileKind) -> Callable[[Path], Mapping[str, Any]]:
    """What reads a file of weights, by its content. Raises `CheckpointError` for one that is something else."""
    if kind.name == "safetensors":
        return _open_safetensors
    if kind.name in ("torch", "pickle"):
        return _open_pickle
    if kind.name in ("empty", "truncated", "zeros"):
        raise CheckpointError(f"{file} is damaged: it is {kind}")
    if kind.name == "engine":
        raise CheckpointError(f"{file} is {kind.what}: give the checkpoint that it was exported from")
    if kind.name == "missing":
        raise CheckpointError(f"shard {file} is missing: fetch all files of the release")
    if kind.name == "unknown" and file.suffix == ".safetensors":
        return _open_safetensors
    if kind.name == "unknown" and file.suffix in _PICKLES:
        return _open_pickle
    raise CheckpointError(f"{file} is {kind.told(_WANTED)}")


def _open_folder(folder: Path) -> Mapping[str, Any]:
    """The folder's one set of weights: an index with its shards, all shards of one name, or one file."""
    files = sorted(folder.glob("*.safetensors"))
    pickles = [] if files else sorted(file for file in folder.iterdir() if file.suffix in _PICKLES)
    indices = sorted(folder.glob("*.safetensors.index.json" if files else "*.index.json"))
    if len(indices) == 1:
        return _open_index(indices[0])
    sets = {tuple(_all_shards(file)) for file in files or pickles}
    if len(indices) > 1 or len(sets) > 1:
        found = [file.name for file in (*indices, *files, *pickles)]
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
    names = [f"{stem}-{number:0{digits}d}-of-{match[3]}.{match[4]}" for number in range(1, count + 1)]
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
        file = index.parent / shard
        shards[shard] = dict(_reader(file, file_kind(file))(file))
    misplaced = [key for key, shard in weight_map.items() if key not in shards[shard]]
    unlisted = [key for tensors in shards.values() for key in tensors if key not in weight_map]
    if misplaced or unlisted:
        first = (misplaced or unlisted)[0]
        raise CheckpointError(
            f"{index} and its shards differ in {len(misplaced) + len(unlisted)} tensors ({first}): "
            "fetch index and shards of one release"
        )
    return {key: shards[shard][key] for key, shard in weight_map.items()}


def _open_shards(files: Sequence[Path]) -> Mapping[str, Any]:
    if len(files) == 1:
        return _reader(files[0], file_kind(files[0]))(files[0])
    tensors: dict[str, Any] = {}
    for file in files:
        more = _reader(file, file_kind(file))(file)
        twice = sorted(set(more) & set(tensors))
        if twice:
            raise CheckpointError(f"{file} holds {twice[0]}, which another shard holds too: fetch the shards again")
        tensors.update(more)
    return tensors


def _open_safetensors(file: Path) -> dict[str, Any]:
    try:
        tensors: dict[str, Any] = load_file(file)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        reason = _first_line(error)
        raise CheckpointError(f"{file} is damaged or no safetensors file ({reason}): fetch it again") from error
    return tensors


def _open_pickle(file: Path) -> Mapping[str, Any]:
    """A `torch.save` file's dict; the unpickler knows tensors and plain data only, so nothing in the file is run."""
    try:
        with file.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the unpickler, about files that it refuses a moment later
            # torch.load goes by some names (.safetensors): such a file is read as a stream, which cannot be mapped.
            named = file.suffix != ".safetensors"
            mapped = named and stream.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
            content = torch.load(str(file) if named else stream, map_location="cpu", weights_only=True, mmap=mapped)
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
