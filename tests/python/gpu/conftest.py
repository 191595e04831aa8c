# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.built_once import BuiltOnce
from helpers.policies import write_golden, write_nano
from lightwam.assets import bundled_engine
from lightwam.cli import main
from lightwam.engine.dtypes import DType
from lightwam.engine.graph import FloatPrecision

MakeEngine = Callable[..., Path]


@pytest.fixture(scope="session")
def policy_engine(built_once: BuiltOnce) -> MakeEngine:
    """Engine files of golden policies and nano by name, precision and stream_dtype; nano in f32 is the bundled one."""

    def make(name: str, precision: FloatPrecision, stream_dtype: DType = "f32") -> Path:
        def fill(folder: Path) -> object:
            if name != "nano":
                return write_golden(name, precision, folder, stream_dtype)
            if precision == "f32":
                return shutil.copy(bundled_engine(), folder / "nano.lwam")
            return write_nano(precision, folder)

        return built_once(f"{name}-{precision}-{stream_dtype}", fill) / f"{name}.lwam"

    return make


@pytest.fixture(scope="session")
def compiled_golden(built_once: BuiltOnce, policy_engine: MakeEngine) -> Path:
    """A folder with golden set 3 in bf16, compiled for sm_87 by the verb (gpu.lwam), and its cache of code."""
    plain = policy_engine("golden_set3", "bf16")

    def fill(folder: Path) -> None:
        options = ["--targets", "sm_87", "--tactics", "1", "--cache", str(folder / "cache"), "--jobs", "2"]
        assert main(["compile", str(plain), str(folder / "gpu.lwam"), *options]) == 0

    return built_once("compiled-golden", fill)
