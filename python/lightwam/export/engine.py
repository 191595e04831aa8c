# SPDX-License-Identifier: Apache-2.0
"""Writer and reader of engine files (`*.lwam`): one safetensors file, its metadata the graph (docs/engine-format.md).

The writer makes one constant at a time, so the largest engine needs no second copy of its weights in memory; it writes
to a temporary name and renames, so a file that exists is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lightwam.errors import EngineError
from lightwam.export.check import check_graph
from lightwam.export.dtypes import ITEM_SIZE, NUMPY_DTYPE, SAFETENSORS_NAME, Array, DType
from lightwam.export.graph import ALIGNMENT, Constant, Graph, TensorType, graph_from_json, graph_to_json

METADATA_KEY = "lightwam"
_DTYPE_OF_NAME: dict[str, DType] = {name: dtype for dtype, name in SAFETENSORS_NAME.items()}
_LENGTH = struct.Struct("<Q")
_UNKNOWN_CHECKSUM = "0" * 8


def write_engine(graph: Graph, path: str | os.PathLike[str], on_bytes: Callable[[int], None] | None = None) -> int:
    """Verify a planned graph and write it. `on_bytes` hears of every constant's size. Returns the file's size in bytes.

    Raises `ExportError` if the graph breaks a rule of the format; then, as after any failure, no file is left behind.
    """
    check_graph(graph)
    target = Path(path)
    checksums = dict.fromkeys(graph.constants, _UNKNOWN_CHECKSUM)
    header, offsets = _header(graph, checksums)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_beside(target) as file:
        file.write(_LENGTH.pack(len(header)))
        file.write(header)
        data_start = file.tell()
        for name, constant in graph.constants.items():  # in order of use: what is folded together is made once
            file.seek(data_start + offsets[name])
            numbers = np.ascontiguousarray(constant.array()).data
            file.write(numbers)
            checksums[name] = f"{zlib.crc32(numbers):08x}"
            if on_bytes is not None:
                on_bytes(constant.type.num_bytes)
        file.seek(_LENGTH.size)
        file.write(_header(graph, checksums)[0])  # as long as before: a checksum has a fixed width
    return data_start + graph.constant_bytes()


def _header(graph: Graph, checksums: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The safetensors header, padded so that the numbers begin on an aligned byte, and every tensor's offset after it.

    Wide formats come first, so that each tensor is aligned to its element.
    """
    description = {**graph_to_json(graph), "checksums": dict(checksums)}
    document: dict[str, Any] = {
        "__metadata__": {METADATA_KEY: json.dumps(description, allow_nan=False, separators=(",", ":"))}
    }
    end = 0
    offsets: dict[str, int] = {}
    for constant in sorted(graph.constants.values(), key=lambda constant: -ITEM_SIZE[constant.type.dtype]):
        begin, end = end, end + constant.type.num_bytes
        offsets[constant.name] = begin
        document[constant.name] = {
            "dtype": SAFETENSORS_NAME[constant.type.dtype],
            "shape": list(constant.type.shape),
            "data_offsets": [begin, end],
        }
    header = json.dumps(document, separators=(",", ":")).encode()
    return header + b" " * (-(len(header) + _LENGTH.size) % ALIGNMENT), offsets


@contextlib.contextmanager
def _temporary_beside(target: Path) -> Iterator[BinaryIO]:
    """A file that takes the target's name when the block ends well, and is removed otherwise."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def read_engine(path: str | os.PathLike[str]) -> Graph:
    """The graph of an engine file; its constants are read from the file when asked for. Raises `EngineError`.

    For inspection and for the interpreter. The runtime has its own reader, which trusts nothing.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
            if length > file.stat().st_size:
                raise EngineError(f"{file}: header of {length} bytes in a smaller file: fetch the whole file again")
            header = json.loads(stream.read(length))
        document = json.loads(header.pop("__metadata__")[METADATA_KEY])
        constants = {name: _stored_constant(file, 8 + length, name, entry) for name, entry in header.items()}
    except OSError as error:
        raise EngineError(f"{file}: {error.strerror}: give the path of an engine file") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{file}: not an engine file ({error}): export the policy again") from error
    try:
        return graph_from_json(document, constants)
    except EngineError as error:
        raise EngineError(f"{file}: {error}") from error


def check_checksums(path: str | os.PathLike[str], on_bytes: Callable[[int], None] = lambda _: None) -> None:
    """Compare every tensor of an engine file with its checksum. Raises `EngineError` naming the first that differs.

    `on_bytes` hears of every tensor's size. A file made by hand may have no checksums: then nothing is compared.
    """
    file = Path(path)
    graph = read_engine(file)
    with file.open("rb") as stream:
        (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
        document = json.loads(json.loads(stream.read(length))["__metadata__"][METADATA_KEY])
    for name, wanted in document.get("checksums", {}).items():
        found = f"{zlib.crc32(np.ascontiguousarray(graph.constants[name].array()).data):08x}"
        if found != wanted:
            raise EngineError(f"{file}: tensor {name} has checksum {found}, expected {wanted}: fetch the file again")
        on_bytes(graph.constants[name].type.num_bytes)


def _stored_constant(file: Path, data_start: int, name: str, entry: dict[str, Any]) -> Constant:
    tensor = TensorType(_DTYPE_OF_NAME[entry["dtype"]], tuple(entry["shape"]))
    begin, end = entry["data_offsets"]
    if end - begin != tensor.num_bytes or data_start + end > file.stat().st_size:
        raise ValueError(f"tensor {name} has {end - begin} bytes of {tensor.num_bytes}, or ends after the file")

    def load() -> Array:
        mapped = np.memmap(file, NUMPY_DTYPE[tensor.dtype], "r", data_start + begin, tensor.shape or (1,))
        return np.asarray(mapped).reshape(tensor.shape)

    return Constant(name, tensor, load)
