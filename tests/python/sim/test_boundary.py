# SPDX-License-Identifier: Apache-2.0
"""What LIBERO, robosuite and MuJoCo can throw: one typed line with a remedy, a Ctrl-C, or nothing at all."""

from __future__ import annotations

import builtins
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from lightwam import cli
from lightwam.assets import bundled_engine
from lightwam.errors import ConfigError, SimulatorError
from lightwam.sim.libero import boundary
from lightwam.sim.libero.boundary import check_folders, path_file, quiet, simulator_errors
from lightwam.sim.libero.env import LiberoEnv, _build_remedy, _suite, import_libero
from lightwam.sim.libero.simulator import Libero
from lightwam.sim.registry import load_simulator

EVAL = ["eval", "--policy", str(bundled_engine()), "--trials", "1"]


# -- LIBERO's path file ---------------------------------------------------------------------------------------------

STALE = "\n".join(f"{key}: /gone/{key}" for key in ("benchmark_root", "bddl_files", "init_states", "assets"))
PATH_FILES = {
    "stale": STALE, "one stale folder": "init_states: /gone", "no YAML": "a: [1,", "a list": "- a",
    "null": "assets: null", "a number": "bddl_files: 3", "not UTF-8": b"\xff\xfe\x00",
    "a tag": "assets: !!python/object:os.system x",
}  # fmt: skip


@pytest.mark.parametrize("content", PATH_FILES.values(), ids=PATH_FILES)
def test_a_bad_path_file_is_one_line_that_names_it(
    content: str | bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    libero = pytest.importorskip("libero.libero")
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    file = tmp_path / "config.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert path_file() == file
    with pytest.raises(SimulatorError, match=f"correct or delete LIBERO's path file {file}") as caught:
        check_folders(libero.get_libero_path)
    assert "\n" not in str(caught.value)
    file.unlink()  # the remedy
    check_folders(libero.get_libero_path)


def test_eval_with_a_stale_path_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(STALE)
    environment = {**os.environ, "LIBERO_CONFIG_PATH": str(tmp_path)}
    command = [sys.executable, "-m", "lightwam.cli", *EVAL, "--out", str(tmp_path / "r.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "SimulatorError" in last and f"{tmp_path}/config.yaml" in last and "LIBERO_CONFIG_PATH" in last


def test_folders_without_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Libero().task(None, None)
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    (tmp_path / "config.yaml").write_text(f"bddl_files: {tmp_path}")
    with pytest.raises(SimulatorError, match=r"task file .*bddl does not exist: correct or delete"):
        Libero().make_env(task, render=False)


# -- import ---------------------------------------------------------------------------------------------------------

SHADOWS = {
    "libero/__init__.py": ("", "the module libero in .* is another one or damaged"),
    "libero/libero/__init__.py": ("x = 1", "the module libero in .* is another one or damaged"),
    "yaml.py": ("raise ImportError('libfoo.so.3: no such file')", r"libfoo.*pip install '.\[libero\]'"),
    "bddl.py": ("raise ValueError('boom')", "ValueError: boom"),
    "robosuite.py": ("import nowhere_to_be_found", r"nowhere_to_be_found.*pip install '.\[libero\]'"),
    "termcolor.py": ("1 / 0", "ZeroDivisionError: division by zero"),
    "mujoco.py": ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
}


@pytest.mark.parametrize("module", SHADOWS)
def test_a_broken_or_shadowed_module_is_one_line(module: str, tmp_path: Path) -> None:
    source, wanted = SHADOWS[module]
    (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
    if "/" in module:
        (tmp_path / "libero/__init__.py").touch()
    (tmp_path / module).write_text(source)
    code = (
        f"import sys, re; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from lightwam.errors import ConfigError, SimulatorError\n"
        "from lightwam.sim.libero.env import import_libero\n"
        "try: import_libero()\n"
        "except SimulatorError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.startswith("importing LIBERO failed (")
    assert re.search(wanted, done.stdout), done.stdout


def test_warnings_as_errors_do_not_stop_the_import() -> None:
    code = "from lightwam.sim.libero.env import import_libero; import_libero()"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_log_of_another_user_is_left_out(tmp_path: Path) -> None:
    with boundary._optional_logs():
        handler = logging.FileHandler(tmp_path / "folder of another user" / "robosuite.log")
        kept = logging.FileHandler(tmp_path / "mine.log")
    handler.emit(logging.LogRecord("x", logging.ERROR, "", 1, "lost", None, None))
    assert handler.baseFilename == os.devnull and kept.baseFilename == str(tmp_path / "mine.log")
    assert logging.FileHandler is not boundary._OptionalLog
    handler.close()
    kept.close()


def test_questions_prints_and_warnings_are_answered_and_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    ask = builtins.input
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet():
            print("Do you want to specify a custom path for the dataset folder? (Y/N)")
            warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
            assert input("? ") == "n"
    assert builtins.input is ask and capsys.readouterr().out == ""


# -- what runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ValueError("two\nlines"), AssertionError(), KeyError("x"), FloatingPointError("nan"), OSError(2, "gone")]
)
def test_every_error_is_typed_and_has_the_remedy(error: Exception) -> None:
    with (
        pytest.raises(SimulatorError, match=r"^a step failed \(\w+: .*\): do this$"),
        simulator_errors("a step", "do this"),
    ):
        raise error


def test_an_error_of_ours_stays() -> None:
    with pytest.raises(SimulatorError, match=r"^ours$"), simulator_errors("a step", "do this"):
        raise SimulatorError("ours")


@pytest.mark.parametrize("chained", [True, False])
def test_a_ctrl_c_that_became_an_error_is_a_ctrl_c(chained: bool) -> None:
    """robosuite's sensors and LIBERO's scenes have bare `except:` clauses."""

    def build() -> None:
        try:
            raise KeyboardInterrupt
        except BaseException as error:
            raise ValueError("Current sensor for observable robot0_joint_pos is invalid.") from (
                error if chained else None
            )

    with pytest.raises(KeyboardInterrupt), simulator_errors("building", "do this"):
        build()


def test_a_half_built_context_destroys_itself_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    class Context:
        def __del__(self) -> None:
            raise AttributeError("no attribute '_context'")

    def build() -> None:
        context = Context()
        raise ImportError(f"no EGL device for {type(context)}")

    with pytest.raises(SimulatorError), simulator_errors("building", "do this"):
        build()
    assert capsys.readouterr().err == ""


def test_the_callers_error_state_is_not_the_simulators() -> None:
    with np.errstate(all="raise"):
        with simulator_errors("a step", "do this"):
            assert np.float64(1e-300) * np.float64(1e-300) == 0
        with pytest.raises(FloatingPointError):
            np.float64(1e-300) * np.float64(1e-300)


class Stubborn:
    """Stands for robosuite: reset draws placements that overlap, `times` times, then raises or succeeds."""

    def __init__(self, error: type[Exception], times: int, then: BaseException | None = None) -> None:
        self.error, self.left, self.then = error, times, then

    def reset(self) -> dict[str, int]:
        if self.left:
            self.left -= 1
            raise self.error("objects overlap")
        if self.then is not None:
            raise self.then
        return {"seen": 1}


def resetting(stubborn: Stubborn, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What `_random_placement` returns with this robosuite."""
    env = object.__new__(LiberoEnv)
    env.task = Libero().task(None, None)
    env._bad_placement = stubborn.error
    monkeypatch.setattr(LiberoEnv, "raw", stubborn)
    return env._random_placement()


def test_a_reset_tries_again_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    overlap = import_libero()[2]
    assert resetting(Stubborn(overlap, 5), monkeypatch) == {"seen": 1}
    with pytest.raises(SimulatorError, match="1000 random placements overlap"):
        resetting(Stubborn(overlap, 10_000), monkeypatch)
    with pytest.raises(KeyboardInterrupt):  # LIBERO's own reset goes on
        resetting(Stubborn(overlap, 1, KeyboardInterrupt()), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        resetting(Stubborn(overlap, 1, ZeroDivisionError()), monkeypatch)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (TypeError("__init__() got an unexpected keyword argument 'hard_reset'"), r"pip install '\.\[libero\]'"),
        (FileNotFoundError(2, "No such file", "/gone/scene.xml"), "LIBERO"),
        (RuntimeError("no display"), "MUJOCO_GL to the other one of osmesa and egl"),
    ],
)
def test_the_remedy_of_a_failed_build_fits_its_error(error: Exception, wanted: str) -> None:
    assert re.search(wanted, _build_remedy(error))


@pytest.mark.parametrize(
    ("source", "wanted"),
    [("def f(:", "SyntaxError"), ("raise ValueError('no licence')", "ValueError: no licence"), ("", "AttributeError")],
)
def test_a_simulator_of_ones_own_that_cannot_be_made(
    source: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_simulator.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_simulator", raising=False)
    with pytest.raises(ConfigError, match=f"{wanted}.*: check --sim, PYTHONPATH, its class"):
        load_simulator("own_simulator:Sim")
    sys.modules.pop("own_simulator", None)


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"MUJOCO_GL": "nonsense"}, "unset it, or set it to osmesa or egl"),
        ({"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "glx"}, "PYOPENGL_PLATFORM='glx' contradicts"),
    ],
)
def test_wrong_graphics_variables(
    variables: dict[str, str], wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import_libero.cache_clear()
    _suite.cache_clear()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli.main([*EVAL, "--out", str(tmp_path / "r.json")]) == 2
    assert wanted in capsys.readouterr().err
