# SPDX-License-Identifier: Apache-2.0
"""The command line: every verb exists and answers --help; wrong use and errors are one line and exit status 2."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightwam import cli


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in cli.VERBS:
        assert f"  {name} " in text


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_has_a_frozen_argument_dataclass_and_answers_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = cli.VERBS[name]
    module = importlib.import_module(verb.module)
    arguments = getattr(module, verb.arguments)
    assert dataclasses.is_dataclass(arguments)
    assert arguments.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert callable(module.main)
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), "--help"])
    assert stop.value.code == 0
    assert "--" in capsys.readouterr().out


def test_a_verb_is_a_file_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "greeting_verb.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class GreetArgs:\n"
        "    name: str\n"
        "def main(arguments):\n"
        "    print('hello', arguments.name)\n"
        "    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.VERBS, "greet", cli.Verb("say hello", "greeting_verb", "GreetArgs"))
    assert cli.main(["greet", "--name", "Ada"]) == 3
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "hello Ada" in shown and "  greet " in shown


def test_unknown_verb_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fly"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and "'fly'" in captured.err


def test_lightwam_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--engine", str(tmp_path / "absent.lwam")]) == 2
    captured = capsys.readouterr()
    assert captured.err.strip().count("\n") == 0
    assert "EngineError" in captured.err and "absent.lwam" in captured.err


def test_a_missing_module_names_the_extras_that_have_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "lightwam.cli.onnx", raising=False)
    monkeypatch.delitem(sys.modules, "lightwam.onnx.export", raising=False)
    monkeypatch.delitem(sys.modules, "lightwam.onnx.model", raising=False)
    assert cli.main(["onnx", "--engine", "a", "--out", "b"]) == 2
    error = capsys.readouterr().err
    assert "'onnx' is not installed: pip install '.[onnx]' in a checkout" in error and error.count("\n") == 1


class Faulty:
    """A verb's module whose main raises what it is told to."""

    @dataclasses.dataclass(frozen=True)
    class Args:
        """Fail."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def main(self, arguments: Args) -> int:
        raise self.error


def outcome(error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The exit status and the only line of a verb that raises the error."""
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "faulty_verb", Faulty(error))  # type: ignore[arg-type]
    monkeypatch.setitem(cli.VERBS, "fail", cli.Verb("fail", "faulty_verb", "Args"))
    status = cli.main(["fail"])
    (line,) = capsys.readouterr().err.splitlines()
    return f"{status} {line}"


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (ZeroDivisionError("division by zero"), "2 .*unexpected ZeroDivisionError: division by zero .*-X dev"),
        (ValueError("one\ntwo"), "2 .*unexpected ValueError: one "),
        (AssertionError(), "2 .*unexpected AssertionError: no reason given"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "2 .*unexpected UnicodeDecodeError"),
        (RecursionError("deep"), "2 .*unexpected RecursionError"),
        (
            ImportError("libfoo.so: no such file", name="torch"),
            "2 .*libfoo.so: no such file .*: take that off the path",
        ),
        (ModuleNotFoundError("no", name="json.nothing"), "2 .*json.* has no json.nothing: take it off the path"),
        (ModuleNotFoundError("no", name="lightwam.kernels"), "2 .*lightwam.kernels is missing: run pip install ."),
        (ModuleNotFoundError("no", name="av"), "2 .*'av' is not installed: pip install '.\\[train\\]'"),
        (ModuleNotFoundError("no", name="somebodys"), "2 .*'somebodys' is not installed: pip install somebodys"),
        (OSError(28, "No space left on device", "/x"), "2 .*/x: No space left on device; free some room"),
        (PermissionError(13, "Permission denied", "/x"), "2 .*/x: Permission denied; give a path that this user"),
        (OSError(24, "Too many open files", "/x"), "2 .*ulimit -n"),
        (OSError(24, "Too many open files"), "2 .*ulimit -n"),
        (OSError(27, "File too large", "/x"), "2 .*/x: File too large; allow larger files with ulimit -f"),
        (OSError(40, "Too many levels of symbolic links", "/x"), "2 .*/x: .*; give a path without links in a circle"),
        (OSError(5, "Input/output error", "/x"), "2 .*/x: Input/output error; check that disk"),
        (OSError(30, "Read-only file system"), "2 .*Read-only file system: check the disk, /dev/shm"),
        (OSError("strange"), "2 .*unexpected OSError: strange"),
        (MemoryError("7 GB"), r"2 .*out of memory \(7 GB\)"),
        (KeyboardInterrupt(), "130 .*interrupted"),
    ],
)
def test_whatever_a_verb_raises_is_one_line_and_never_status_1(
    error: BaseException, wanted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.match(wanted, outcome(error, monkeypatch, capsys))


def test_a_folder_that_was_removed_under_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    error = FileNotFoundError(2, "No such file or directory")
    assert "the folder that this shell stands in was removed; cd to another one" in outcome(error, monkeypatch, capsys)


def test_the_help_lists_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    assert "exit status: 0 done; 1 " in capsys.readouterr().out


def test_the_version_of_sources_that_are_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    assert cli.main(["--version"]) == 0
    assert "not installed" in capsys.readouterr().out


def test_help_imports_neither_torch_nor_the_simulator() -> None:
    code = (
        "import sys; from lightwam import cli; cli.main(['--help']); "
        "assert not {'torch', 'libero', 'mujoco'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_closed_pipe_is_no_error() -> None:
    code = (
        "import sys; from lightwam import cli; cli.VERBS['x'] = cli.Verb('', 'json', 'JSONDecoder'); "
        "cli.run_verb = lambda *_: [print('word' * 1000) for _ in range(1000)] and 0; sys.exit(cli.main(['x']))"
    )
    command = f'set -o pipefail; {sys.executable} -c "{code}" | head -n 1'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == "" and done.returncode == 0
