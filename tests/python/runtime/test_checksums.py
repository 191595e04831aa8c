# SPDX-License-Identifier: Apache-2.0
"""Numbers of an engine file that changed on the way are found at load, even where they are still finite."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightwam.assets import bundled_engine
from lightwam.engine.file import check_checksums
from lightwam.errors import EngineError
from lightwam.runtime import Policy


def damaged(tmp_path: Path, position: float, replace: bytes) -> Path:
    """The bundled engine with `replace` written at this share of its numbers."""
    contents = bytearray(bundled_engine().read_bytes())
    start = 8 + struct.unpack("<Q", contents[:8])[0]
    at = start + int(position * (len(contents) - start - len(replace)))
    assert contents[at : at + len(replace)] != replace
    contents[at : at + len(replace)] = replace
    path = tmp_path / "damaged.lwam"
    path.write_bytes(contents)
    return path


@pytest.mark.parametrize("position", [0.0, 0.37, 0.8, 1.0])
@pytest.mark.parametrize("length", [1, 4096])
def test_changed_numbers_are_refused(tmp_path: Path, position: float, length: int) -> None:
    contents = bundled_engine().read_bytes()
    start = 8 + struct.unpack("<Q", contents[:8])[0]
    at = start + int(position * (len(contents) - start - length))
    changed = bytes([contents[at] ^ 1]) + bytes(length - 1)
    with pytest.raises(EngineError, match=r"damaged.lwam.*is damaged: its checksum is [0-9a-f]{8}; expected") as error:
        Policy(damaged(tmp_path, position, changed))
    assert "\n" not in str(error.value)


def with_checksums(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The bundled engine with other 'checksums'."""
    contents = bundled_engine().read_bytes()
    (length,) = struct.unpack("<Q", contents[:8])
    header = json.loads(contents[8 : 8 + length])
    document = json.loads(header["__metadata__"]["lightwam"])
    changed = change(document["checksums"])
    document["checksums"] = document["checksums"] if changed is None else changed
    header["__metadata__"]["lightwam"] = json.dumps(document)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "unlisted.lwam"
    path.write_bytes(struct.pack("<Q", len(text)) + text + contents[8 + length :])
    return path


def remove_one(checksums: dict[str, Any]) -> None:
    del checksums[next(iter(checksums))]


def add_one(checksums: dict[str, Any]) -> None:
    checksums["nobody"] = "0" * 8


def mistype_one(checksums: dict[str, Any]) -> None:
    checksums[next(iter(checksums))] = 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_one, "'checksums' has no text for tensor"),
        (add_one, "'checksums' names (the|a) tensor .*nobody"),
        (mistype_one, "'checksums' has no text for tensor|has checksum .*expected 7"),
        (lambda _: [1], "'checksums' is"),
    ],
    ids=["a tensor without checksum", "a checksum without tensor", "a number", "a list"],
)
def test_checksums_that_do_not_belong_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = with_checksums(tmp_path, change)
    for read in (Policy, check_checksums):
        with pytest.raises(EngineError, match=message):
            read(path)
