# SPDX-License-Identifier: Apache-2.0
"""Advice in messages can be followed: the options, verbs, extras, packages, pages, variables and names in it exist.

The first part reads every text of the package and of the C++ sources. The second carries remedies out: what failed
works when its message is followed.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import dataclasses
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightwam import cli
from lightwam.assets import bundled_engine
from lightwam.cli import parse
from lightwam.errors import LightWAMError
from lightwam.extras import EXTRAS, how_to_install
from lightwam.runtime import Policy
from lightwam.sim.libero import boundary, renderer

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPTS = ("benchmarks", "tests")  # options of other programs than lightwam's

FOREIGN_VARIABLES = {
    "MUJOCO_GL": "robosuite, mujoco", "PYOPENGL_PLATFORM": "PyOpenGL", "LIBERO_CONFIG_PATH": "LIBERO",
    "NUMBA_CACHE_DIR": "numba", "WANDB_MODE": "wandb", "HOME": "the system", "PYTHONPATH": "Python",
    "CUDA_VISIBLE_DEVICES": "the driver",
}  # fmt: skip
"""Variables that messages may name: who reads them."""

FOREIGN_PACKAGES = {"matplotlib", "."}
FOREIGN_COMMANDS = re.compile("`ray start --num-cpus`")  # options of another program


# -- the texts ------------------------------------------------------------------------------------------------------


def text_of(node: ast.AST) -> str:
    """A string, or an f-string with {} for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "{}" for part in node.values)
    return ""


def python_texts() -> Iterator[tuple[str, str]]:
    """(place, text) of every string in the package that is no docstring."""
    for path in sorted([*(REPOSITORY / "python").rglob("*.py"), *(REPOSITORY / "kernels").rglob("*.py")]):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if id(node) not in docs | inner and (text := text_of(node)):
                yield f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 0)}", text


def cpp_texts() -> Iterator[tuple[str, str]]:
    """(place, text) of the string literals of the C++ sources; neighbours are joined."""
    for path in sorted((REPOSITORY / "csrc").rglob("*.[ch]pp")):
        source = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
        source = re.sub(r'"\s*\n\s*"', "", source)
        for number, line in enumerate(source.splitlines(), 1):
            for text in re.findall(r'"((?:[^"\\]|\\.)*)"', line):
                yield f"{path.relative_to(REPOSITORY)}:{number}", text


TEXTS = [*python_texts(), *cpp_texts()]
MESSAGES = [(place, text) for place, text in TEXTS if " " in text]


def parser_options(verb: str) -> set[str]:
    """The options of a verb."""
    entry = cli.VERBS[verb]
    arguments = getattr(importlib.import_module(entry.module), entry.arguments)
    actions: list[argparse.Action] = parse._parser(arguments, verb)._actions
    return {option for action in actions for option in action.option_strings}


@cache
def options() -> set[str]:
    return {option for verb in cli.VERBS for option in parser_options(verb)} | {"--version"}


@cache
def torchrun_options() -> set[str]:
    run = pytest.importorskip("torch.distributed.run")
    actions: list[argparse.Action] = run.get_args_parser()._actions
    return {option for action in actions for option in action.option_strings}


@cache
def extras() -> dict[str, list[str]]:
    found: dict[str, Any] = pytest.importorskip("tomllib").loads((REPOSITORY / "pyproject.toml").read_text())
    extras_found: dict[str, list[str]] = found["project"]["optional-dependencies"]
    return extras_found


@cache
def names() -> set[str]:
    """Every function, class, parameter, field and attribute that the package defines, and Python's own."""
    found = set(dir(builtins))
    for path in (REPOSITORY / "python").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
    return found


# -- what they name -------------------------------------------------------------------------------------------------


def faults(text: str) -> Iterator[str]:
    """What a message names that does not exist."""
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w{-])", FOREIGN_COMMANDS.sub("", text)):
        if option not in (torchrun_options() if text.startswith("torchrun") else options()):
            yield f"no verb has {option}"
    for words in re.findall(r"[`'\"]lightwam ([a-z]+(?: [a-z]+)?)", text) + re.findall(
        r"\b(?:run|use|then use|by|with|again with) lightwam ([a-z]+)", text
    ):
        if cli.find_verb(words.split()) is None and words.split()[0] not in ("or", "and"):
            yield f"no verb {words}"
    if "lightwam[" in text:
        yield "lightwam is on no package index"
    for extra in re.findall(r"\.\[([a-z,]+)\]", text):
        if not set(extra.split(",")) <= set(extras()):
            yield f"no extra {extra}"
    for package in re.findall(r"pip install ([\w.-]+)", text):
        listed = {re.split(r"[<>=;]", line)[0] for lines in extras().values() for line in lines}
        if package not in FOREIGN_PACKAGES | listed | set(EXTRAS):
            yield f"no package {package}"
    for variable in re.findall(r"\b(?:set|unset|check) ([A-Z][A-Z_]{3,})\b", text):
        if variable not in FOREIGN_VARIABLES:
            yield f"nobody reads {variable}"
    for page in re.findall(r"[\w/-]+\.md\b", text):
        if not [*(REPOSITORY / "docs").rglob(Path(page).name)]:
            yield f"no page {page}"
    for called in re.findall(r"(?:call|give|use|example|with) (?:\w+\.)*([a-z_]+)\(", text):
        if called not in names():
            yield f"no function {called}"
    for parameter in re.findall(r"\b([a-z_]+)=(?:'|None|True|False|\(\)|,)", text):
        if parameter not in names():
            yield f"no parameter {parameter}"


def test_every_message_names_what_exists() -> None:
    assert len(MESSAGES) > 1000
    found = [f"{place}: {fault}: {text}" for place, text in MESSAGES for fault in faults(text)]
    assert not found, "\n".join(found)


def test_options_that_a_verb_s_own_file_names_are_its_own() -> None:
    others = {
        "export.py": {"--format", "--calibration"},  # of quantize
        "robot.py": {"--config"},  # of data check
        "train_plan.py": parser_options("train policy") | torchrun_options(),  # in the command that it proposes
    }
    for verb, entry in cli.VERBS.items():
        file = entry.module.rpartition(".")[2] + ".py"
        mine = parser_options(verb) if file != "train.py" else options()
        for place, text in MESSAGES:
            if place.rpartition(":")[0].endswith(f"cli/{file}"):
                named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w{-])", text)) - others.get(file, set())
                assert named <= mine, (place, named - mine)


@pytest.mark.parametrize(
    "text",
    [
        "give another --uot", "make it with 'lightwam compil'", "run lightwam tun again", "pip install 'lightwam[gpu]'",
        "pip install '.[cpu]' in a checkout", "pip install lightwom", "set MUJOCO_LG to osmesa",
        "look at reference/running.md", "call set_instructions(text) first", "or begins_at='latents'",
    ],
)  # fmt: skip
def test_a_wrong_remedy_is_found(text: str) -> None:
    assert [*faults(text)]


# -- carried out ----------------------------------------------------------------------------------------------------


def fails(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The only line of a command that fails."""
    assert cli.main(words.split()) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lightwam ")]
    return line


STEPS = {  # command -> (part of its message, the command that follows it)
    "bench --thread 1 --runs 1": ("is it --threads?", "bench --threads 1 --runs 1 --warmup 1"),
    "bench --device orin": ("add that", "bench --device orin --roofline"),
    "bench --roofline --device cuda": ("give one of orin", "bench --roofline --device orin"),
    "bench --roofline --out {tmp}/file": ("give another --out", "bench --roofline --out {tmp}/b"),
    "bench --device cuda": ("pass device='cpu'", "bench --device cpu --runs 1 --warmup 1"),
    "bench --runs 0": ("at least 1", "bench --runs 1 --warmup 1"),
    "inspect {engine} --text-rows -1": ("at least 0", "inspect {engine} --text-rows 0"),
    "onnx --engine {engine} --out {tmp}/a": ("ends in .onnx", "onnx --engine {engine} --out {tmp}/a.onnx"),
    "export --out {tmp}/a.lwam": ("--random", "export --random nano --out {tmp}/a.lwam"),
    "export --checkpoint none --random nano --out {tmp}/a.lwam": (
        "exactly one of --checkpoint and --random",
        "export --random nano --seed 1 --out {tmp}/a.lwam",
    ),
    "export --random nano --known dance --out {tmp}/a.lwam": (
        "need --checkpoint",
        "export --random nano --out {tmp}/a.lwam",
    ),
    "compile {small} {tmp}/c.lwam --targets sm_87 --cache {tmp}/file": (
        "with --cache",
        "compile {small} {tmp}/c.lwam --targets sm_87 --tactics 1 --cache {tmp}/k",
    ),
    "quantize {engine} --out {tmp}/q.lwam": (
        "exactly one of them",
        "quantize {engine} --random-observations 1 --layer-observations 1 --out {tmp}/q.lwam",
    ),
}


@pytest.mark.parametrize("words", STEPS)
def test_following_a_message_works(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder, no engine")
    small = REPOSITORY / "tests/data/engines/small_linear.lwam"
    places = {"tmp": tmp_path, "engine": bundled_engine(), "small": small}
    message, then = STEPS[words]
    assert message in fails(words.format(**places), capsys)
    assert cli.main(then.format(**places).split()) == 0, capsys.readouterr().err


def test_the_runtime_s_own_remedies(policy: Policy) -> None:
    seen = {"images": {name: np.zeros((8, 8, 3), np.uint8) for name in ("agentview", "wrist")}, "state": np.zeros(8)}
    with pytest.raises(LightWAMError, match="call set_instruction first"):
        policy.infer(seen)
    policy.set_instruction("pick it up")
    policy.infer(seen)
    with pytest.raises(LightWAMError, match="or pass device='cpu'"):
        Policy(bundled_engine(), device="cuda")
    Policy(bundled_engine(), device="cpu")
    with pytest.raises(LightWAMError, match="export it again with --precision bf16"):
        Policy(bundled_engine(), precision="bf16")
    assert "--precision" in parser_options("export")


@pytest.fixture
def policy() -> Policy:
    return Policy(bundled_engine(), threads=1)


def test_an_empty_folder_of_libero_s_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libero = pytest.importorskip("libero.libero")
    (tmp_path / "config.yaml").write_text("assets: /gone")
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    with pytest.raises(LightWAMError, match="set LIBERO_CONFIG_PATH to an empty folder"):
        boundary.check_folders(libero.get_libero_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path / "empty"))
    boundary.check_folders(libero.get_libero_path)


def test_the_renderer_s_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (("MUJOCO_GL", "glfw"), ("PYOPENGL_PLATFORM", "glx")):
        monkeypatch.setenv(variable, value)
        with pytest.raises(LightWAMError, match="unset it"):
            renderer.choose_renderer()
        monkeypatch.delenv(variable)
    assert renderer.choose_renderer() in ("osmesa", "egl")


def test_every_extra_can_be_named_and_every_verb_has_a_page() -> None:
    for extra in extras():
        assert f"'.[{extra}]'" in how_to_install((extra,))
    page = (REPOSITORY / "docs/reference/command-line.md").read_text(encoding="utf-8")
    for verb, needed in cli.EXTRAS.items():
        assert f"`{verb}`" in page and f"`[{','.join(needed)}]`" in page, verb
    assert dataclasses.is_dataclass(cli.Verb)
