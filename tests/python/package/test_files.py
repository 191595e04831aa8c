# SPDX-License-Identifier: Apache-2.0
"""Files and folders appear whole or not at all, and what was there stays until then."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightwam.files import replacing_file, replacing_folder


def test_a_file_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "figures.png"
    path.write_text("old")
    with replacing_file(path) as building:
        assert building.suffix == ".png" and building.parent == tmp_path
        building.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing_file(path) as building:
        building.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError), replacing_file(path):
        pass  # nothing was written: there is nothing to rename
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "checkpoint"
    with replacing_folder(folder) as building:
        (building / "a").write_text("1")
    with replacing_folder(folder) as building:
        (building / "inner").mkdir()
        (building / "inner" / "b").write_text("2")
        assert [path.name for path in folder.iterdir()] == ["a"]
    assert [path.name for path in folder.iterdir()] == ["inner"] and list(folder.parent.iterdir()) == [folder]


def test_a_failed_block_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoint"
    with replacing_folder(folder) as building:
        (building / "a").write_text("1")
    with pytest.raises(ValueError), replacing_folder(folder) as building:
        (building / "b").write_text("2")
        raise ValueError
    rename, refused = Path.rename, []

    def refuse_the_new_one(path: Path, target: Path) -> Path:
        if target == folder and not refused:
            refused.append(path)
            raise PermissionError
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(PermissionError), replacing_folder(folder) as building:
        (building / "b").write_text("2")
    assert refused and [path.name for path in folder.iterdir()] == ["a"] and list(tmp_path.iterdir()) == [folder]
