# SPDX-License-Identifier: Apache-2.0
"""Writer and reader of engine files (`*.lwam`): one safetensors file, its metadata the graph (engine-format.md).

The writer makes one constant at a time, so the largest engine needs no second copy of its weights in memory; it writes
to a temporary name and renames, so a file that exists is whole.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightwam.engine.dtypes import ITEM_SIZE, NUMPY_DTYPE, SAFETENSORS_NAME, Array, DType
from lightwam.engine.graph import ALIGNMENT, Constant, Graph, graph_from_json, graph_to_json, tensor_type
from lightwam.engine.verify import check_graph
from lightwam.errors import EngineError, ExportError
from lightwam.file_kind import file_kind
from lightwam.files import check_output, parse_json, replacing_file, short

METADATA_KEY = "lightwam"
GPU_KEY = "gpu"
_DTYPE_OF_NAME: dict[str, DType] = {name: dtype for dtype, name in SAFETENSORS_NAME.items()}
_LENGTH = struct.Struct("<Q")
_MOST_HEADER_BYTES = 16 << 20  # csrc/engine/safetensors.cpp
_UNKNOWN_CHECKSUM = "0" * 8


@dataclass(frozen=True)
class GpuPart:
    """What a GPU needs beside the graph (launch-plan.md): the value of the key `gpu`, and tensors of its own."""

    document: Mapping[str, Any]
    tensors: Mapping[str, Constant]


def check_engine_output(out: str | os.PathLike[str], inputs: Iterable[Path | None] = ()) -> None:
    """Raise `ExportError` where an engine may not be written: over an input, or over what is no engine file."""
    check_output(Path(out), "an engine file", ExportError, lambda _, kind: kind.name == "engine", inputs)


def write_engine(
    graph: Graph,
    path: str | os.PathLike[str],
    on_bytes: Callable[[int], None] | None = None,
    gpu: GpuPart | None = None,
    read_back: bool = False,
) -> int:
    """Verify a planned graph and write it; returns the file's size in bytes. `on_bytes` is called with each tensor's.

    `read_back`: the runtime's reader verifies the file before it gets its name, as for every engine that a verb leaves
    behind. Raises `ExportError` if the graph breaks a rule of the format or that reader refuses the file; then, as
    after any failure, no file is left behind, and an older one stays. Whether an older one may be replaced is the
    caller's to ask (`check_engine_output`), before the work.
    """
    check_graph(graph)
    target = Path(path)
    tensors = {**graph.constants, **(gpu.tensors if gpu is not None else {})}
    description = graph_to_json(graph) | ({GPU_KEY: dict(gpu.document)} if gpu is not None else {})
    checksums = dict.fromkeys(tensors, _UNKNOWN_CHECKSUM)
    header, offsets = _header(description, tensors, checksums)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(target) as part:
        with part.open("wb") as file:
            file.write(_LENGTH.pack(len(header)))
            file.write(header)
            data_start = file.tell()
            for name, constant in tensors.items():  # in order of use: what is folded together is made once
                file.seek(data_start + offsets[name])
                numbers = np.ascontiguousarray(constant.array()).data
                file.write(numbers)
                checksums[name] = f"{zlib.crc32(numbers):08x}"
                if on_bytes is not None:
                    on_bytes(constant.type.num_bytes)
            file.seek(_LENGTH.size)
            file.write(_header(description, tensors, checksums)[0])  # as long as before: a checksum has a fixed width
        if read_back:
            _read_back(part, target)
    return data_start + sum(constant.type.num_bytes for constant in tensors.values())


def _read_back(part: Path, target: Path) -> None:
    """Raise `ExportError` unless the runtime's reader takes the file (the reader here, where there is no extension)."""
    try:
        try:
            from lightwam.runtime import _engine
        except ImportError:
            check_graph(read_engine(part))
            check_checksums(part)
        else:
            _engine.verify(os.fsencode(part))
    except EngineError as error:
        reason = str(error).replace(os.fspath(part), os.fspath(target))
        raise ExportError(f"the runtime would refuse what was made, so nothing was written: {reason}") from error


def _header(
    description: Mapping[str, Any], tensors: Mapping[str, Constant], checksums: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """The safetensors header, padded so that the numbers begin on an aligned byte, and every tensor's offset after it.

    Wide formats come first, so that each tensor is aligned to its element.
    """
    complete = {**description, "checksums": dict(checksums)}
    document: dict[str, Any] = {
        "__metadata__": {METADATA_KEY: json.dumps(complete, allow_nan=False, separators=(",", ":"))}
    }
    end = 0
    offsets: dict[str, int] = {}
    for constant in sorted(tensors.values(), key=lambda constant: -ITEM_SIZE[constant.type.dtype]):
        begin, end = end, end + constant.type.num_bytes
        offsets[constant.name] = begin
        document[constant.name] = {
            "dtype": SAFETENSORS_NAME[constant.type.dtype],
            "shape": list(constant.type.shape),
            "data_offsets": [begin, end],
        }
    header = json.dumps(document, separators=(",", ":")).encode()
    return header + b" " * (-(len(header) + _LENGTH.size) % ALIGNMENT), offsets


def read_engine(path: str | os.PathLike[str]) -> Graph:
    """The graph of an engine file; its constants are read from the file when they are used. Raises `EngineError`.

    For inspection and for the interpreter. The runtime has its own reader, which trusts nothing. What the file holds
    for GPUs is left out: it belongs to this file, not to a graph made from it.
    """
    document, tensors = _read_file(Path(path))
    try:
        own = _gpu_tensors(document)
        return graph_from_json(document, {name: tensor for name, tensor in tensors.items() if name not in own})
    except EngineError as error:
        raise EngineError(f"{path}: {error}") from error


def read_gpu_document(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The value of the key `gpu` of an engine file, None if it has none. Raises `EngineError`."""
    document: dict[str, Any] | None = _read_file(Path(path))[0].get(GPU_KEY)
    return document


def _read_file(file: Path) -> tuple[dict[str, Any], dict[str, Constant]]:
    """The JSON document of an engine file, and all of its tensors."""
    remedy = "give an engine file (*.lwam), as `lightwam export` writes it"
    try:
        with file.open("rb") as stream:
            (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
            if length > file.stat().st_size:
                raise ValueError(f"a header of {length} bytes in a smaller file")
            if length > _MOST_HEADER_BYTES:
                raise ValueError(f"its header has {length} bytes; expected at most {_MOST_HEADER_BYTES}")
            header = parse_json(stream.read(length))
        document = parse_json(header.pop("__metadata__")[METADATA_KEY])
        tensors = {name: _stored_constant(file, 8 + length, name, entry) for name, entry in header.items()}
        if not isinstance(document, dict):
            raise TypeError("its document is no object")
    except OSError as error:
        raise EngineError(f"{file}: {error.strerror}: give the path of an engine file") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        kind = file_kind(file)
        if kind.name not in ("engine", "safetensors", "unknown"):
            raise EngineError(f"{file}: not an engine file, it is {kind.told(remedy)}") from error
        raise EngineError(f"{file}: not an engine file ({error}): export the policy again") from error
    return document, tensors


def _gpu_tensors(document: Mapping[str, Any]) -> set[str]:
    """Tensors that only the GPU's part of a document names: machine code, and what a plan derives from weights."""
    if GPU_KEY not in document:
        return set()
    try:
        gpu = document[GPU_KEY]
        programs = document["programs"].values()
        used = {name for program in programs for op in program["ops"] for name in op["constants"].values()}
        return {*gpu["images"].values(), *(entry["tensor"] for entry in gpu["weights"])} - used
    except (KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"the launch plan lacks or mistypes {error}: run lightwam compile again") from error


def check_checksums(path: str | os.PathLike[str], on_bytes: Callable[[int], None] = lambda _: None) -> None:
    """Compare every tensor of an engine file with its checksum. Raises `EngineError` naming the first that differs.

    `on_bytes` is called with every tensor's size. A file made by hand may have no checksums: then nothing is compared.
    """
    file = Path(path)
    document, tensors = _read_file(file)
    if "checksums" not in document:
        return
    checksums = document["checksums"]
    if not isinstance(checksums, dict):
        raise EngineError(f"{file}: 'checksums' is {short(checksums)}, not an object: export the policy again")
    for name in sorted(set(tensors) ^ set(checksums)):
        lacks = "has no text for tensor" if name in tensors else "names a tensor that is not there,"
        raise EngineError(f"{file}: 'checksums' {lacks} {name}: export the policy again")
    for name, tensor in tensors.items():
        found = f"{zlib.crc32(np.ascontiguousarray(tensor.array()).data):08x}"
        if not isinstance(checksums[name], str) or checksums[name].lower() != found:
            given = short(checksums[name])
            raise EngineError(f"{file}: tensor {name} has checksum {found}, expected {given}: fetch the file again")
        on_bytes(tensor.type.num_bytes)


def _stored_constant(file: Path, data_start: int, name: str, entry: dict[str, Any]) -> Constant:
    tensor = tensor_type(_DTYPE_OF_NAME[entry["dtype"]], entry["shape"])
    begin, end = entry["data_offsets"]
    whole = type(begin) is int and type(end) is int and begin >= 0
    if not whole or end - begin != tensor.num_bytes or data_start + end > file.stat().st_size:
        raise ValueError(f"tensor {name} has {end - begin} bytes of {tensor.num_bytes}, or ends after the file")

    def load() -> Array:
        mapped = np.memmap(file, NUMPY_DTYPE[tensor.dtype], "r", data_start + begin, tensor.shape or (1,))
        return np.asarray(mapped).reshape(tensor.shape)

    return Constant(name, tensor, load)
