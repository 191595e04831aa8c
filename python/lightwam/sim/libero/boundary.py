# SPDX-License-Identifier: Apache-2.0
"""What stands between us and LIBERO, robosuite and MuJoCo: whatever they raise, print, ask or log at start-up.

An error of theirs is a `SimulatorError` in one line with a remedy. A Ctrl-C that their bare `except:` turned into an
error is a Ctrl-C again.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib.util
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightwam.arithmetic import default_errstate
from lightwam.errors import LightWAMError, SimulatorError
from lightwam.extras import how_to_install

_FOLDERS = ("bddl_files", "init_states", "assets")  # of LIBERO's path file


@contextlib.contextmanager
def simulator_errors(what: str, remedy: str | Callable[[Exception], str]) -> Iterator[None]:
    """Errors of the block are a SimulatorError: `what` failed, why, and the remedy.

    NumPy's error state is the default one meanwhile: their arithmetic underflows, whatever the caller chose.
    """
    try:
        with default_errstate():
            yield
    except LightWAMError:
        raise
    except Exception as error:
        if _interrupted(error):
            raise KeyboardInterrupt from None
        _release(error)
        text = " ".join(str(error).split())
        do = remedy if isinstance(remedy, str) else remedy(error)
        raise SimulatorError(f"{what} failed ({type(error).__name__}: {text}): {do}") from error


def _interrupted(error: BaseException | None) -> bool:
    """Whether a Ctrl-C started it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _release(error: BaseException | None) -> None:
    """Destroy now what was half built: destructors of OpenGL contexts print tracebacks of their own."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error = error.__cause__ or error.__context__
        gc.collect()
    finally:
        sys.unraisablehook = hook


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what LIBERO prints and warns of, and answer its question (where to keep data sets) with the default."""
    ask = builtins.input
    builtins.input = lambda *_: "n"
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        builtins.input = ask


class _OptionalLog(logging.FileHandler):
    """A log file, or none where it cannot be opened: /tmp/robosuite.log may belong to another user."""

    def __init__(self, filename: str | os.PathLike[str], *args: Any, **more: Any) -> None:
        try:
            super().__init__(filename, *args, **more)
        except OSError:
            super().__init__(os.devnull)


@contextlib.contextmanager
def _optional_logs() -> Iterator[None]:
    handler = logging.FileHandler
    logging.FileHandler = _OptionalLog  # type: ignore[misc]
    try:
        yield
    finally:
        logging.FileHandler = handler  # type: ignore[misc]


def import_modules() -> tuple[Any, Any, type[Exception]]:
    """LIBERO's module of benchmarks, its class ControlEnv, and robosuite's error of an impossible placement.

    Raises SimulatorError where LIBERO is missing, is another package, or its path file is stale or damaged.
    """
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    logging.getLogger("OpenGL").setLevel(logging.WARNING)
    with simulator_errors("importing LIBERO", _import_remedy), quiet(), _optional_logs():
        from libero import libero

        check_folders(libero.get_libero_path)
        from libero.libero import benchmark
        from libero.libero.envs.env_wrapper import ControlEnv
        from robosuite.utils.errors import RandomizationError
    return benchmark, ControlEnv, RandomizationError


def _import_remedy(error: Exception) -> str:
    if "home directory" in str(error):
        return "set HOME to a folder"
    if "no locator available" in str(error):  # of numba's cache
        return "set NUMBA_CACHE_DIR to a folder that can be written"
    name = getattr(error, "name", None) if isinstance(error, ImportError) else None
    name = "libero" if isinstance(error, AttributeError) else (name or "").partition(".")[0]
    place = _place(name) if name else None
    if place is not None:
        return f"the module {name} in {place} is another one or damaged: take it off the path, or {_install()}"
    if isinstance(error, ImportError):
        return _install()
    return f"correct what that names (MUJOCO_GL and the graphics library, mostly), or {_install()}"


def _place(module: str) -> str | None:
    """Where a module is found; None where there is none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin or ", ".join(spec.submodule_search_locations or ())


def _install() -> str:
    return how_to_install(("libero",))


def path_file() -> Path:
    """LIBERO's own file of paths, which may not exist."""
    module = sys.modules.get("libero.libero")
    folder = os.environ.get("LIBERO_CONFIG_PATH") or getattr(module, "libero_config_path", None) or "~/.libero"
    return Path(os.path.expanduser(folder)) / "config.yaml"


def path_remedy() -> str:
    """What to do about a file of LIBERO that is not where it looks."""
    file = path_file()
    if file.is_file():
        return f"correct or delete LIBERO's path file {file}, or set LIBERO_CONFIG_PATH to an empty folder"
    return f"LIBERO's own files are incomplete: {_install()}"


def check_folders(get_path: Callable[[str], str]) -> None:
    """Raise SimulatorError where LIBERO's path file names a folder that does not exist, or cannot be read."""
    for key in _FOLDERS:
        with simulator_errors(f"reading LIBERO's path file {path_file()}", lambda _: path_remedy()):
            folder = Path(get_path(key))
        if not folder.is_dir():
            raise SimulatorError(f"LIBERO's {key} {folder} does not exist: {path_remedy()}")
