# SPDX-License-Identifier: Apache-2.0
"""What a kernel computed beside its float64 reference: the cases of all kernels, their inputs, what may differ."""

from __future__ import annotations

import importlib
import pkgutil
import zlib
from collections.abc import Mapping
from types import ModuleType

import numpy as np

import lightwam.kernels.ops
from lightwam.kernels.formats import Array, decode, encode
from lightwam.kernels.task import Argument, DType, Task, kernel_module

#: Half a step of the format beside 1 (the one rounding of a result), a little more for the f32 sums before it.
ROUNDING: Mapping[DType, float] = {"f32": 2.0**-23, "f16": 2.0**-11, "bf16": 2.0**-8}
#: Of the largest element: f32 sums, whose terms may cancel.
TOLERANCE = 5e-6
#: Eight bits may round the other way where the quotient in f32 lies beside a tie: by one, in this share of a result.
MOST_TIES = 0.01


def modules() -> list[ModuleType]:
    """Every module of `lightwam.kernels.ops` that defines a kernel with cases."""
    names = [module.name for module in pkgutil.iter_modules(lightwam.kernels.ops.__path__)]
    found = [importlib.import_module(f"lightwam.kernels.ops.{name}") for name in names]
    return [module for module in found if hasattr(module, "CASES")]


def inputs(task: Task) -> dict[str, Array]:
    """What a case reads, as stored; the same every time."""
    module = kernel_module(task)
    generator = np.random.default_rng(zlib.crc32(repr(task).encode()))
    example = module.example(task, generator) if hasattr(module, "example") else {}
    return {
        a.name: encode(example[a.name] if a.name in example else _random(a, generator), a.dtype)
        for a in task.arguments
        if a.mode == "r"
    }


def _random(argument: Argument, generator: np.random.Generator) -> Array:
    if argument.shape is None:
        raise ValueError(f"argument {argument.name} has no shape: the module's example() has to make it")
    if argument.dtype in ("f32", "f16", "bf16", "f8"):
        return generator.standard_normal(argument.shape)
    low, high = (0, 256) if argument.dtype == "u8" else (-128, 128)
    return generator.integers(low, high, argument.shape)


def reference(task: Task, stored: Mapping[str, Array]) -> dict[str, Array]:
    """What the case's kernel should write for the inputs, in float64 (integers as int64), not rounded."""
    numbers = {a.name: decode(stored[a.name], a.dtype) for a in task.arguments if a.mode == "r"}
    made: Mapping[str, Array] = kernel_module(task).reference(task, numbers)
    return {name: np.asarray(array) for name, array in made.items()}


def differences(task: Task, results: Mapping[str, Array], expected: Mapping[str, Array]) -> list[str]:
    """What is wrong with the written arguments (as stored), a line each; nothing when all are within rounding."""
    written = {a.name: a for a in task.arguments if a.mode == "w"}
    if set(results) != set(written) or set(expected) != set(written):
        return [f"writes {sorted(results)}, reference {sorted(expected)}, arguments {sorted(written)}"]
    module = kernel_module(task)
    tolerance = float(module.tolerance(task)) if hasattr(module, "tolerance") else TOLERANCE
    faults = [(name, _difference(a, results[name], expected[name], tolerance)) for name, a in written.items()]
    return [f"{task.kernel} {dict(task.constants)} {name}: {fault}" for name, fault in faults if fault]


def _difference(argument: Argument, result: Array, expected: Array, tolerance: float) -> str:
    got = decode(result, argument.dtype)
    if got.shape != expected.shape:
        return f"shape {list(got.shape)}, expected {list(expected.shape)}"
    if argument.dtype == "i32":
        wrong = int(np.count_nonzero(got != np.rint(expected)))
        return f"{wrong} of {got.size} integers differ" if wrong else ""
    if not np.isfinite(got).all():
        return f"{np.count_nonzero(~np.isfinite(got))} of {got.size} elements are not finite"
    error = np.abs(got - expected)
    if argument.dtype in ("i8", "u8"):
        share = float((error > 0).mean())
        return "" if error.max() <= 1 and share <= MOST_TIES else f"off by up to {error.max():.0f}, {share:.2%} differ"
    if argument.dtype == "f8":  # expected lies on the grid: one step of it, an eighth at most
        share, most = float((error > 0).mean()), np.maximum(np.abs(expected) / 8, 2.0**-9)
        steps = float((error / most).max())
        return "" if steps <= 1 and share <= MOST_TIES else f"off by up to {steps:.3g} steps, {share:.2%} differ"
    beyond = error - (ROUNDING[argument.dtype] * np.abs(expected) + tolerance * np.abs(expected).max())
    return "" if (beyond <= 0).all() else f"{beyond.max():.3g} beyond the limit; largest {np.abs(expected).max():.3g}"
