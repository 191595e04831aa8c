# SPDX-License-Identifier: Apache-2.0
"""Numbers of an engine file that changed on the way are found at load, even where they are still finite."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from lightwam.assets import bundled_engine
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


def test_a_tensor_without_checksum_is_refused(tmp_path: Path) -> None:
    contents = bundled_engine().read_bytes()
    (length,) = struct.unpack("<Q", contents[:8])
    header = json.loads(contents[8 : 8 + length])
    document = json.loads(header["__metadata__"]["lightwam"])
    name = next(iter(document["checksums"]))
    del document["checksums"][name]
    header["__metadata__"]["lightwam"] = json.dumps(document)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "unlisted.lwam"
    path.write_bytes(struct.pack("<Q", len(text)) + text + contents[8 + length :])
    with pytest.raises(EngineError, match="'checksums' has no text for tensor"):
        Policy(path)
