# SPDX-License-Identifier: Apache-2.0
"""What each verb needs beside NumPy: nothing for bench, inspect and tune, its own extras for the others."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lightwam import cli
from lightwam.assets import bundled_engine
from lightwam.extras import EXTRAS, how_to_install, missing_module

REPOSITORY = Path(__file__).resolve().parents[3]


def extras() -> dict[str, list[str]]:
    """The extras of pyproject.toml."""
    toml = pytest.importorskip("tomllib")
    found: dict[str, list[str]] = toml.loads((REPOSITORY / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    return found


def run_with(verb: str, words: str, *more: str) -> subprocess.CompletedProcess[str]:
    """A command where the modules of no other extras than the verb's (and `more`) can be imported."""
    mine = {*cli.EXTRAS.get(verb, ()), *more}
    blocked = [module for module, having in EXTRAS.items() if not mine & set(having)]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({[*blocked, 'rich', 'tyro']})); from lightwam import cli; "
        f"sys.exit(cli.main({shlex.split(f'{verb} {words}')}))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_table_of_extras_is_that_of_the_project() -> None:
    known = extras()
    for module, names in EXTRAS.items():
        for name in names:
            assert any(re.match(rf"{module}\b", requirement) for requirement in known[name]), (module, name)
    for verb, names in cli.EXTRAS.items():
        assert verb in cli.VERBS and set(names) <= set(known)


def test_the_package_imports_no_library_for_its_command_line() -> None:
    for path in (REPOSITORY / "python").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"rich", "tyro", "click"}, path


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verb_answers_help_with_its_own_extras(verb: str) -> None:
    done = run_with(verb, "--help")
    assert done.returncode == 0 and done.stderr == ""


def test_base_verbs_work_with_numpy_alone(tmp_path: Path) -> None:
    engine = bundled_engine()
    assert run_with("inspect", f"{engine} --ops --savings").returncode == 0
    bench = run_with("bench", f"--runs 1 --warmup 1 --out {tmp_path}")
    assert bench.returncode == 0 and (tmp_path / "bench.json").is_file() and not (tmp_path / "bench.png").exists()
    assert "for pictures, pip install matplotlib" in bench.stderr
    tune = run_with("tune", str(engine))
    assert tune.returncode == 2 and "has no machine code for a GPU; make it with 'lightwam compile'" in tune.stderr
    assert "device='cpu'" not in tune.stderr


MISSING = {
    "bench --roofline": "pip install '.[gpu]'",
    "onnx --engine a --out b": "pip install '.[onnx]'",
    "train vae --data a --out b --cache c": "pip install '.[train]'",
    "convert --out a --config nano": "pip install '.[export]'",
    "compile a b": "pip install '.[export,gpu]'",
    "eval --policy a": "pip install '.[libero]'",
}


@pytest.mark.parametrize("words", MISSING)
def test_a_missing_extra_is_named_with_a_command(words: str) -> None:
    """The base installation: none of the extras' modules is there."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({list(EXTRAS)})); from lightwam import cli; "
        f"sys.exit(cli.main({words.split()}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and MISSING[words] in line and "lightwam[" not in line


def test_packages_by_name_for_one_without_a_checkout() -> None:
    pytest.importorskip("importlib.metadata").distribution("lightwam")
    assert "'triton" in how_to_install(("gpu",)) and "'triton" in missing_module("triton.language")
