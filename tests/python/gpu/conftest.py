# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.policies import write_golden, write_nano
from helpers.standin import build_standin
from lightwam.assets import bundled_engine
from lightwam.cli import main
from lightwam.engine.dtypes import DType
from lightwam.engine.graph import FloatPrecision

MakeOnce = Callable[[str, Callable[[Path], object]], Path]
MakeEngine = Callable[..., Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """A folder of the session by name, filled by the first process that needs it (pytest-xdist runs several)."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder = shared / f"shared-{name}"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                building = shared / f"building-{name}"
                shutil.rmtree(building, ignore_errors=True)
                building.mkdir()
                fill(building)
                building.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def standin_library(made_once: MakeOnce) -> Path:
    """The stand-in driver, compiled once a session."""
    return made_once("standin", build_standin) / "standin.so"


@pytest.fixture(scope="session")
def policy_engine(made_once: MakeOnce) -> MakeEngine:
    """Engine files of golden policies and nano by name, precision and stream_dtype; nano in f32 is the bundled one."""

    def make(name: str, precision: FloatPrecision, stream_dtype: DType = "f32") -> Path:
        def fill(folder: Path) -> object:
            if name != "nano":
                return write_golden(name, precision, folder, stream_dtype)
            if precision == "f32":
                return shutil.copy(bundled_engine(), folder / "nano.lwam")
            return write_nano(precision, folder)

        return made_once(f"{name}-{precision}-{stream_dtype}", fill) / f"{name}.lwam"

    return make


@pytest.fixture(scope="session")
def compiled_golden(made_once: MakeOnce, policy_engine: MakeEngine) -> Path:
    """A folder with golden set 3 in bf16, compiled for sm_87 by the verb (gpu.lwam), and its cache of code."""
    plain = policy_engine("golden_set3", "bf16")

    def fill(folder: Path) -> None:
        options = ["--targets", "sm_87", "--tactics", "1", "--cache", str(folder / "cache"), "--jobs", "2"]
        assert main(["compile", str(plain), str(folder / "gpu.lwam"), *options]) == 0

    return made_once("compiled-golden", fill)
