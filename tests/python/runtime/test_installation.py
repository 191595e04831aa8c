# SPDX-License-Identifier: Apache-2.0
"""Sources without the compiled extension, or with one that does not fit, say so in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lightwam
from lightwam.errors import InstallationError, LightWAMError

PACKAGE = Path(lightwam.__file__).parent


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's folder python/, not built."""
    folder = tmp_path_factory.mktemp("checkout") / "python"
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.lwam", "kernels")
    shutil.copytree(PACKAGE, folder / "lightwam", ignore=ignored)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python on these sources; -S keeps an editable installation from bringing its own."""
    path = os.pathsep.join([str(folder), str(Path(np.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


def nothing(folder: Path) -> None:
    """No extension at all."""


def of_another_python(folder: Path) -> None:
    (folder / "_engine.cpython-27-nowhere.so").write_bytes(b"")


def damaged(folder: Path) -> None:
    (folder / "_engine.so").write_bytes(b"no library")


CASES = {
    nothing: "is not built for Python 3.",
    of_another_python: "only _engine.cpython-27",
    damaged: "cannot be loaded",
}


@pytest.mark.parametrize("place", CASES, ids=lambda place: place.__name__)
def test_the_import_says_what_is_missing(sources: Path, place: Callable[[Path], None]) -> None:
    runtime = sources / "lightwam" / "runtime"
    for file in runtime.glob("*.so"):
        file.unlink()
    place(runtime)
    done = run(sources, "-c", "from lightwam.runtime import Policy")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lightwam.errors.InstallationError: lightwam's compiled extension") and CASES[place] in last
    assert "pip install ." in last and "circular" not in done.stderr


def test_a_command_says_so_in_one_line(sources: Path) -> None:
    for verb in ("inspect", "bench", "tune"):
        done = run(sources, "-m", "lightwam.cli", verb, "a.lwam")
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2 and "InstallationError" in line and "pip install ." in line


def test_help_and_version_need_no_extension(sources: Path) -> None:
    assert run(sources, "-m", "lightwam.cli", "--help").returncode == 0
    assert run(sources, "-m", "lightwam.cli", "--version").returncode == 0


def test_it_is_an_import_error_and_one_of_ours() -> None:
    assert issubclass(InstallationError, ImportError) and issubclass(InstallationError, LightWAMError)
