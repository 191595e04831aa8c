# SPDX-License-Identifier: Apache-2.0
"""Damaged and foreign containers: EngineError in one line, never a crash."""

from __future__ import annotations

import json
import logging
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.engine_files import (
    TASK,
    assemble,
    engine_bytes,
    header_of,
    observation,
    small_engine,
    with_normed_in,
    write_engine,
)
from helpers.hostile_files import loads_or_is_refused, refused
from lightwam.errors import EngineError, ObservationError, PrecisionError
from lightwam.kernels.formats import bfloat16_bits
from lightwam.runtime import Policy


def test_missing_and_strange_files(tmp_path: Path) -> None:
    refused(tmp_path / "none.lwam", "cannot be opened")
    refused(tmp_path, "not an ordinary file")
    (tmp_path / "empty.lwam").touch()
    refused(tmp_path / "empty.lwam", "is empty")
    (tmp_path / "text.lwam").write_text("hello, I am no engine file at all")
    refused(tmp_path / "text.lwam", "is a text file")
    (tmp_path / "zeros.lwam").write_bytes(bytes(4096))
    refused(tmp_path / "zeros.lwam", "zero bytes")
    os.mkfifo(tmp_path / "pipe.lwam")
    refused(tmp_path / "pipe.lwam", "not an ordinary file")


@pytest.mark.parametrize("path", [None, 3, "a\0b", b"a\0b"])
def test_paths_that_are_no_paths(path: Any) -> None:
    with pytest.raises(EngineError, match="engine path"):
        Policy(path)


def test_path_that_is_not_utf8() -> None:
    with pytest.raises(EngineError, match="cannot be opened"):
        Policy(b"/nonexistent/\xff.lwam")
    with pytest.raises(EngineError, match="cannot be opened"):
        Policy("/nonexistent/\udcff.lwam")


STRANGE = "a\nb\x1b[2J\x85\u2028c"
WRITTEN_OUT = r"a\nb\x1b[2J\u0085\u2028c"


def test_names_do_not_break_a_message_in_two(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = small_engine()
    engine.document["name"] = STRANGE
    engine.document["policy"]["cameras"][0]["name"] = STRANGE
    with pytest.raises(EngineError, match="cannot be opened") as error:
        Policy(tmp_path / STRANGE)
    assert WRITTEN_OUT in str(error.value) and len(str(error.value).splitlines()) == 1
    with caplog.at_level(logging.INFO, "lightwam.runtime"):
        policy = Policy(write_engine(tmp_path / STRANGE, engine), threads=1)
    assert WRITTEN_OUT in policy.execution_info and len(caplog.records[0].getMessage().splitlines()) == 1
    policy.set_instruction(TASK)
    for bad in ({"state": np.zeros(5, np.float32), "images": {}}, observation()):
        with pytest.raises(ObservationError) as refusal:
            policy.infer(bad)
        assert len(str(refusal.value).splitlines()) == 1
    with pytest.raises(PrecisionError) as precision:
        Policy(tmp_path / STRANGE, precision=STRANGE)
    assert WRITTEN_OUT in str(precision.value) and len(str(precision.value).splitlines()) == 1


def test_truncation_at_many_lengths(tmp_path: Path) -> None:
    whole = engine_bytes(small_engine())
    path = tmp_path / "cut.lwam"
    lengths = {*range(1, 64), *range(64, len(whole), 41), len(whole) - 1}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        refused(path, "truncated|long|not valid|after|ends at byte")


def test_bytes_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "long.lwam"
    path.write_bytes(engine_bytes(small_engine()) + b"\0")
    refused(path, "1 bytes after the last tensor")


def test_flipped_bits(tmp_path: Path) -> None:
    whole = bytearray(engine_bytes(small_engine()))
    path = tmp_path / "flipped.lwam"
    rng = random.Random(5)
    for position in [*range(8), *(rng.randrange(len(whole)) for _ in range(600))]:
        bit = 1 << rng.randrange(8)
        whole[position] ^= bit
        path.write_bytes(whole)
        loads_or_is_refused(path)
        whole[position] ^= bit


def safetensors_like(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (safetensors_like({}), "no '__metadata__'"),
        (safetensors_like({"__metadata__": {}}), "no metadata entry 'lightwam'"),
        (safetensors_like({"__metadata__": {"lightwam": 3}}), "no metadata entry 'lightwam'"),
        (safetensors_like({"__metadata__": 3}), "no '__metadata__'"),
        (safetensors_like({"__metadata__": {"lightwam": "{"}}), "metadata 'lightwam' is not valid"),
        (safetensors_like({"__metadata__": {"lightwam": "[]"}}), "is a list; expected an object"),
        (safetensors_like([]), "the header is a list"),
        (safetensors_like(b'{"a": 1, "a": 2}'), "a key twice"),
        (safetensors_like(b"[" * 100 + b"]" * 100), "deeper than 64"),
        (safetensors_like(b"[" * 1_000_000), "deeper than 64"),
        (safetensors_like(b"[" + b"0," * 1_100_000 + b"0]"), "more than 1048576 values"),
        (safetensors_like(b'{"a": "\xff"}'), "UTF-8"),
        (safetensors_like(b'{"a": "\xed\xa0\x80"}'), "UTF-8"),
        (safetensors_like(b'{"a": "\\ud800"}'), "surrogate"),
        (safetensors_like(b'{"a": "\n"}'), "control character"),
        (safetensors_like(b'{"a": 1e999}'), "out of range"),
        (safetensors_like(b'{"a": 01}'), "should stand here"),
        (safetensors_like(b'{"a": nan}'), "unknown word|should stand here"),
        (safetensors_like(b'{"a": 1}x'), "after the end"),
        (struct.pack("<Q", 2**63) + b"{}", "header length"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "header length"),
        (struct.pack("<Q", 3) + b"{}", "truncated"),
    ],
)
def test_headers(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.lwam"
    path.write_bytes(content)
    refused(path, message)


def spoil_header(change: Callable[[dict[str, Any]], None]) -> bytes:
    header, tensors = header_of(small_engine())
    change(header)
    return assemble(header, tensors)


def set_entry(name: str, /, **fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_entry("conv.bias", dtype="F64"), "dtype 'F64' is unknown"),
        (set_entry("conv.bias", dtype=None), "'dtype' is missing or not a string"),
        (set_entry("conv.bias", shape=[9]), r"shape \[9\] needs 36"),
        (set_entry("conv.bias", shape=[]), "out of range"),
        (set_entry("conv.bias", shape=[0]), "out of range"),
        (set_entry("conv.bias", shape=[-8]), "out of range"),
        (set_entry("conv.bias", shape=[8.0]), "expected integers"),
        (set_entry("conv.bias", shape=[2**32, 2**32, 2]), "out of range"),
        (set_entry("conv.bias", shape=[1] * 7), "1 to 6 dimensions"),
        (set_entry("conv.bias", data_offsets=[0, 32]), "inside another tensor|after a hole"),
        (set_entry("conv.bias", data_offsets=[32, 0]), "data_offsets must be"),
        (set_entry("conv.bias", data_offsets=[-32, 0]), "data_offsets must be"),
        (set_entry("conv.bias", data_offsets=[0, 2**62]), "the file's data"),
        (set_entry("conv.bias", data_offsets=[2**62, 2**62 + 32]), "the file's data"),
        (set_entry("conv.bias", data_offsets=[1]), "data_offsets must be"),
        (set_entry("conv.bias", data_offsets=[0, 2**70]), "expected integers"),
        (set_entry("conv.bias", extra=1), "has 4 keys"),
        (lambda header: header.update({"conv.bias": 3}), "is a number; expected an object"),
        (lambda header: header.pop("conv.bias"), "after a hole"),
        (lambda header: header.pop("__metadata__"), "no '__metadata__'"),
    ],
)
def test_tensor_entries(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    path = tmp_path / "bad.lwam"
    path.write_bytes(spoil_header(change))
    refused(path, message)


def test_misaligned_tensors(tmp_path: Path) -> None:
    header, tensors = header_of(small_engine())
    text = json.dumps(header).encode()
    text += b" " * ((-len(text)) % 8 + 2)
    path = tmp_path / "bad.lwam"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensor.tobytes() for tensor in tensors))
    refused(path, "multiple of its element size")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("query.weight", "f32"), ("query.weight", "bf16"), ("query.weight", "f16"), ("instruction.0", "f32"),
     ("instruction.0", "bf16")],
)  # fmt: skip
def test_constants_that_are_not_finite(tmp_path: Path, value: float, dtype: str, name: str) -> None:
    engine = small_engine()
    engine.tensors[name][-1, -1] = value
    if dtype == "bf16":
        engine.tensors[name] = bfloat16_bits(engine.tensors[name])
    if dtype == "f16":
        engine.tensors[name] = engine.tensors[name].astype(np.float16)
        with_normed_in(engine, "f16")
    refused(write_engine(tmp_path / "bad.lwam", engine), f"tensor '{name}' holds NaN or infinity")
