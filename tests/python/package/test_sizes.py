# SPDX-License-Identifier: Apache-2.0
"""No file and no room grows too large."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGE = REPOSITORY / "python" / "lightwam"
FOLDERS = ("python", "kernels", "csrc", "tests", "benchmarks", "examples")
SUFFIXES = {".py", ".cpp", ".hpp", ".inl", ".h", ".c"}


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_file_is_longer_than_450_lines() -> None:
    files = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*") if path.suffix in SUFFIXES]
    assert len(files) > 300
    assert {str(path.relative_to(REPOSITORY)): lines(path) for path in files if lines(path) > 450} == {}


def test_no_room_is_more_than_a_fifth_of_the_package() -> None:
    rooms = [path for path in PACKAGE.iterdir() if path.is_dir() and not path.is_symlink()]
    sizes = {room.name: sum(lines(path) for path in room.rglob("*.py")) for room in rooms}
    total = sum(sizes.values()) + sum(lines(path) for path in PACKAGE.glob("*.py"))
    assert {name: size for name, size in sizes.items() if size > total / 5} == {}
