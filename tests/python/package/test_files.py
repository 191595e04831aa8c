# SPDX-License-Identifier: Apache-2.0
"""Files and folders appear whole or not at all, and what was there stays until then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightwam.files import remove_leftovers, replacing_file, replacing_folder


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


KILLED = """
import os, signal, sys
from pathlib import Path
from lightwam.files import replacing_file, replacing_folder
path = Path(sys.argv[1])
with (replacing_folder if path.suffix == "" else replacing_file)(path) as building:
    (building / "half" if path.suffix == "" else building).write_text("half")
    if sys.argv[2] == "aside":
        path.rename(path.with_name(building.name + ".old"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_while_writing(path: Path, when: str = "while writing") -> list[Path]:
    """What a process that was killed has left in the folder."""
    before = set(path.parent.iterdir())
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), when], check=False)
    assert done.returncode == -9
    return sorted(set(path.parent.iterdir()) - before)


@pytest.mark.parametrize("name", ["engine.lwam", "checkpoint"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, name: str) -> None:
    left = kill_while_writing(tmp_path / name)
    assert len(left) == 1 and ".part" in left[0].name
    with replacing_file(tmp_path / "another.json") as building:
        building.write_text("whole")
    assert list(tmp_path.iterdir()) == [tmp_path / "another.json"]


def test_a_folder_that_was_put_aside_gets_its_name_back(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "weights").write_text("good")
    kill_while_writing(folder, "aside")
    assert not folder.exists()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [folder] and (folder / "weights").read_text() == "good"


def test_what_is_not_ours_or_still_written_stays(tmp_path: Path) -> None:
    (dead,) = kill_while_writing(tmp_path / "engine.lwam")
    _, stem, machine, process, token, rest = dead.name.split(".", 5)
    with replacing_file(tmp_path / "slow.lwam") as writing:
        writing.write_text("half")
        others = [
            f".{stem}.{machine}.{os.getppid()}.{token}.{rest}",  # a living process
            f".{stem}.{'0' * 8}.{process}.{token}.{rest}",  # another machine, or another container
            f"{stem}.{machine}.{process}.{token}.{rest}",
            f".{stem}.{machine}.{process}.part.lwam",
            f".{stem}.{process}.{token}.part.lwam",
            f".{stem}.{machine}.{process}.{token}.lwam",
            f".{stem}.{machine}.0.{token}.{rest}",
            f".{stem}.{machine}.{process}.{token.upper()}x.{rest}",
            "engine.lwam.part",
        ]
        for name in others:
            (tmp_path / name).write_text("a person's")
        remove_leftovers(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {*others, writing.name}
    remove_leftovers(tmp_path / "no such folder")
    remove_leftovers(tmp_path / "engine.lwam.part")
