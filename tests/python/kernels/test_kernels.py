# SPDX-License-Identifier: Apache-2.0
"""Every case of every kernel in the interpreter, beside its reference in float64."""

from __future__ import annotations

import importlib
import pkgutil
import zlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lightwam.kernels
from lightwam.kernels.formats import Array, decode, encode
from lightwam.kernels.interpret import run_arrays
from lightwam.kernels.task import Argument, DType, Task

# Half a step of the format beside 1 (the one rounding of a result), a little more for the f32 sums before it.
ROUNDING: Mapping[DType, float] = {"f32": 2.0**-23, "f16": 2.0**-11, "bf16": 2.0**-8}
# Of the largest element: f32 sums, whose terms may cancel.
SLACK = 5e-6


def _modules() -> list[ModuleType]:
    names = [module.name for module in pkgutil.iter_modules(lightwam.kernels.__path__)]
    modules = [importlib.import_module(f"lightwam.kernels.{name}") for name in names]
    return [module for module in modules if hasattr(module, "CASES")]


def _cases() -> list[Any]:
    return [
        pytest.param(module, task, id=f"{module.__name__.rpartition('.')[2]}-{index}")
        for module in _modules()
        for index, task in enumerate(module.CASES)
    ]


def _random(argument: Argument, generator: np.random.Generator) -> Array:
    assert argument.shape is not None, f"{argument.name}: the module's example() has to make it"
    if argument.dtype in ("f32", "f16", "bf16"):
        return generator.standard_normal(argument.shape)
    low, high = (0, 256) if argument.dtype == "u8" else (-128, 128)
    return generator.integers(low, high, argument.shape)


def _inputs(module: ModuleType, task: Task) -> dict[str, Array]:
    generator = np.random.default_rng(zlib.crc32(repr(task).encode()))
    example = module.example(task, generator) if hasattr(module, "example") else {}
    return {
        a.name: encode(example[a.name] if a.name in example else _random(a, generator), a.dtype)
        for a in task.arguments
        if a.mode == "r"
    }


def _numbers(task: Task, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {a.name: decode(inputs[a.name], a.dtype) for a in task.arguments if a.mode == "r"}


def _check(task: Task, argument: Argument, result: Array, expected: Array, slack: float) -> None:
    label = f"{task.kernel} {dict(task.constants)} {argument.name}"
    got = decode(result, argument.dtype)
    assert expected.shape == got.shape, label
    if argument.dtype == "i32":
        np.testing.assert_array_equal(got, np.rint(expected), err_msg=label)
        return
    assert np.isfinite(got).all(), label
    error: NDArray[Any] = np.abs(got - expected)
    if argument.dtype in ("i8", "u8"):
        # Eight bits may round the other way where the quotient in f32 lies beside a tie.
        assert error.max() <= 1 and (error > 0).mean() <= 0.01, label
        return
    limit = ROUNDING[argument.dtype] * np.abs(expected) + slack * np.abs(expected).max()
    assert (error <= limit).all(), f"{label}: {(error - limit).max()} beyond the limit"


@pytest.mark.parametrize(("module", "task"), _cases())
def test_kernel_equals_reference(module: ModuleType, task: Task) -> None:
    inputs = _inputs(module, task)
    expected = module.reference(task, _numbers(task, inputs))
    slack = module.slack(task) if hasattr(module, "slack") else SLACK
    for tactic in module.tactics(task, "interpreter"):
        results = run_arrays(task, tactic, inputs)
        assert set(results) == set(expected) == {a.name for a in task.arguments if a.mode == "w"}
        for argument in task.arguments:
            if argument.mode == "w":
                _check(task, argument, results[argument.name], np.asarray(expected[argument.name]), slack)


@pytest.mark.parametrize(("module", "task"), _cases())
def test_tactics_of_targets_equal_reference(module: ModuleType, task: Task) -> None:
    """Small blocks, so several programs, ragged ends and other orders: the default tactics of an Orin and an H100."""
    inputs = _inputs(module, task)
    expected = module.reference(task, _numbers(task, inputs))
    slack = module.slack(task) if hasattr(module, "slack") else SLACK
    tactics = [module.tactics(task, target)[0] for target in ("sm_87", "sm_90")]
    for index, tactic in enumerate(tactics):
        if any(dict(tactic.constants) == dict(other.constants) for other in tactics[:index]):
            continue
        results = run_arrays(task, tactic, inputs)
        for argument in task.arguments:
            if argument.mode == "w":
                _check(task, argument, results[argument.name], np.asarray(expected[argument.name]), slack)
