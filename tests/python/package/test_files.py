# SPDX-License-Identifier: Apache-2.0
"""Files and folders appear whole or not at all, and what was there stays until then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightwam.file_kind import FileKind
from lightwam.files import check_output, remove_leftovers, replacing_file, replacing_folder


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


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file.json").symlink_to("real/file.json")  # nothing there yet
    with replacing_file(tmp_path / "file.json") as building:
        building.write_text("new")
    assert (tmp_path / "real" / "file.json").read_text() == "new" and (tmp_path / "file.json").is_symlink()
    with replacing_folder(tmp_path / "link") as building:
        (building / "a").touch()
    assert (tmp_path / "link").is_symlink() and [path.name for path in (tmp_path / "real").iterdir()] == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.json", "link", "real"]


def test_names_as_long_as_the_system_allows(tmp_path: Path) -> None:
    for name in ("n" * 250 + ".json", "é" * 120 + ".json", "a." + "s" * 250):
        with replacing_file(tmp_path / name) as building:
            building.touch()
    with replacing_folder(tmp_path / ("f" * 255)) as building:
        (building / "a").touch()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_folder_or_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match="no ordinary file") as caught, replacing_file(tmp_path / name):
            raise AssertionError("nothing is written first")
        assert caught.value.filename == str(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_a_full_disk_names_the_output(tmp_path: Path) -> None:
    """A limit of file sizes stands for it."""
    code = (
        "import resource, sys; from pathlib import Path; from lightwam.files import replacing_file, replacing_folder\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for what in (replacing_file, replacing_folder):\n"
        "    try:\n"
        "        with what(Path(sys.argv[1])) as part:\n"
        "            (part if what is replacing_file else part / 'a').write_bytes(bytes(5000))\n"
        "    except OSError as error:\n"
        "        print(error.filename, error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{tmp_path / 'out'} File too large"] * 2
    assert list(tmp_path.iterdir()) == []


def test_two_processes_that_write_one_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lightwam.files import replacing_folder\n"
        "for number in range(60):\n"
        "    with replacing_folder(Path(sys.argv[1])) as building:\n"
        "        for name in 'ab': (building / name).write_text(sys.argv[2])\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "out")]
    running = [subprocess.Popen([*words, name]) for name in ("one", "two", "three")]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    assert len({(tmp_path / "out" / name).read_text() for name in "ab"}) == 1


def ours(path: Path, kind: FileKind) -> bool:
    return path.read_bytes() == b"ours" and kind.name == "text"


def test_outputs_that_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "ours").write_text("ours")
    (tmp_path / "link").symlink_to("ours")
    for name in ("new", "deep/new", "empty", "ours", "link"):
        check_output(tmp_path / name, "a thing", ValueError, ours, (tmp_path / "input", None))
    (tmp_path / "folder").mkdir()
    check_output(tmp_path / "folder", "a folder", ValueError, ours, folder=True)


@pytest.mark.parametrize(
    "name, told",
    [
        ("other", r"other is not a thing of lightwam but text \('mine'\): nothing is replaced"),
        ("photo", "but a PNG image"),
        ("folder", "but an empty folder"),
        ("full", r"holds other things than a thing \(a\)"),
        ("to-other", "but text"),
        ("pipe", "not an ordinary file"),
        ("other/below", "cannot be written"),
        ("input", "is or holds the input"),
        ("to-input", "is or holds the input"),
        ("n" * 300, "cannot be written, it is unreadable"),
    ],
)
def test_outputs_that_are_refused(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / "photo").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "to-other").symlink_to("other")
    (tmp_path / "input").write_text("ours")
    (tmp_path / "to-input").symlink_to("input")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=told):
        check_output(tmp_path / name, "a thing", ValueError, ours, (tmp_path / "input",))


def test_a_folder_that_holds_an_input(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "weights.pt").touch()
    with pytest.raises(ValueError, match="is or holds the input"):
        check_output(tmp_path / "in", "a folder", ValueError, lambda *_: True, (tmp_path / "in" / "weights.pt",), True)
