# SPDX-License-Identifier: Apache-2.0
"""Random changes of good engine files, opened and run by `try_engine` of a build with sanitizers.

    cmake --preset cpu-asan && cmake --build --preset cpu-asan --target try_engine
    python tests/stress/engines.py build/cpu-asan/tests/cpp/runtime/try_engine --minutes 5

Changes of the document (values, keys, lists), of the tensors' table, of bytes, and of the length. A file is accepted
and runs, or is refused in one line. One that makes `try_engine` end in another way is kept in --keep, and named.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ENGINES = Path(__file__).parents[1] / "data" / "engines"
BATCH = 100
NUMBERS = (-1, 0, 1, 2, 3, 7, 8, 63, 64, 65, 4095, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, 0.5, -1e308)
WORDS = ("", "x", "f32", "bf16", "f16", "i8", "arena", "input", "instruction", "state", "images", "linear", "actions")


def parts(engine: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The table of tensors, the document and the tensors' bytes of an engine file."""
    (length,) = struct.unpack("<Q", engine[:8])
    table = json.loads(engine[8 : 8 + length])
    document = json.loads(table["__metadata__"].pop("lightwam"))
    return table, document, engine[8 + length :]


def assembled(table: dict[str, Any], document: dict[str, Any], data: bytes) -> bytes:
    """An engine file of its parts."""
    metadata = {**table["__metadata__"], "lightwam": json.dumps(document)}
    text = json.dumps({**table, "__metadata__": metadata}).encode()
    text += b" " * (-(len(text) + 8) % 64)
    return struct.pack("<Q", len(text)) + text + data


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [(node, key) for key in keys] + [place for key in keys for place in places(node[key])]


def change(node: Any) -> None:
    """Change one place of a JSON value."""
    found = places(node)
    container, key = random.choice(found)
    old, (other, other_key) = container[key], random.choice(found)
    kind = random.random()
    if kind < 0.1:
        del container[key]
    elif kind < 0.3:
        container[key] = json.loads(json.dumps(other[other_key]))
    elif isinstance(old, int | float) and not isinstance(old, bool) and kind < 0.6:
        container[key] = old + random.choice((-64, -1, 1, 4, 64)) if kind < 0.5 else old * random.choice((-1, 2, 1024))
    elif isinstance(old, list) and kind < 0.7:
        container[key] = random.sample(old, len(old)) if kind < 0.5 else old * 2
    else:
        container[key] = random.choice((*NUMBERS, *WORDS, None, True, [], {}))


def spoiled(engine: bytes) -> bytes:
    """A changed copy of an engine file."""
    if random.random() < 0.15:
        content = bytearray(engine)
        for _ in range(random.choice((1, 2, 8))):
            content[random.randrange(len(content))] = random.randrange(256)
        return bytes(content[: random.randrange(len(content))] if random.random() < 0.3 else content)
    table, document, data = parts(engine)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        change(table if random.random() < 0.15 else document)
        table.setdefault("__metadata__", {})
        if not isinstance(table["__metadata__"], dict):
            table["__metadata__"] = {}
    return assembled(table, document, data)


def tried(program: Path, files: list[Path]) -> tuple[int, str]:
    """The status of `try_engine` on some files, and what it printed."""
    done = subprocess.run([program, *files], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900)
    return done.returncode, done.stdout.decode(errors="replace")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, help="try_engine")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("outputs/engines"), help="folder of what failed")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    engines = [path.read_bytes() for path in sorted(ENGINES.glob("*.lwam"))]
    counts: Counter[str] = Counter()
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / f"{number}.lwam" for number in range(BATCH)]
        while time.monotonic() < end:
            for file in files:
                file.write_bytes(spoiled(random.choice(engines)))
            status, text = tried(arguments.program, files)
            counts["run"] += text.count(": runs\n")
            counts["tried"] += BATCH
            if status == 0:
                continue
            for file in files:
                status, text = tried(arguments.program, [file])
                if status:
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    kept = arguments.keep / f"{arguments.seed}-{counts['tried']}-{file.name}"
                    kept.write_bytes(file.read_bytes())
                    counts["failed"] += 1
                    print(f"{kept}: status {status}: {text[-2000:]}")
    print(f"seed {arguments.seed}: {dict(counts)}")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
