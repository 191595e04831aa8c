# SPDX-License-Identifier: Apache-2.0
"""Machine code kept on disk by what it depends on (`variant.variant_key`), one file each.

A file is its own SHA-256, then a line of JSON, then the cubin. One that does not fit its checksum counts as absent,
so it is made again. Files are written to a temporary name and renamed: several processes may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from lightwam.kernels.compiler.variant import Code

_DIGEST = 32  # bytes


class CompileCache:
    """Machine code in a folder, which is made if absent (OSError if that fails)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, key: str) -> Code | None:
        """The code kept under a key; None if there is none, or if its file is damaged."""
        try:
            stored = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        digest, content = stored[:_DIGEST], stored[_DIGEST:]
        if hashlib.sha256(key.encode() + content).digest() != digest:
            return None
        line, _, cubin = content.partition(b"\n")
        return Code(cubin=cubin, **json.loads(line))

    def store(self, key: str, code: Code) -> None:
        """Keep the code under the key."""
        fields = asdict(code)
        cubin = fields.pop("cubin")
        content = json.dumps(fields).encode() + b"\n" + cubin
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{key[:8]}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(key.encode() + content).digest() + content)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.code"


def user_cache_folder() -> Path:
    """The user's own folder for machine code: ~/.cache/lightwam/kernels."""
    return Path.home() / ".cache" / "lightwam" / "kernels"
