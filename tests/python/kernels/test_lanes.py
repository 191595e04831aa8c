# SPDX-License-Identifier: Apache-2.0
"""Programs that the interpreter runs at once: they part, fail and reshape as each alone would."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import triton
import triton.language as tl

from helpers.kernel_runs import run_arrays
from lightwam.kernels.interpreter import interpret
from lightwam.kernels.interpreter.running import LaunchError
from lightwam.kernels.task import Argument, Tactic, Task

ROWS, PARTS, WIDTH = 5, 3, 16
TACTIC = Tactic({})


@triton.jit
def kernel(x, y, PARTS: tl.constexpr, WIDTH: tl.constexpr, KIND: tl.constexpr):
    row, part = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, WIDTH)
    values = tl.load(x + row * WIDTH + column)
    if part == 1:
        values = -values
    for _ in range(row + 1):
        values += part
    block = tl.reshape(values, [4, 2, 2])
    first, second = tl.split(block)
    swapped = tl.reshape(tl.join(second, first), [4, 4])
    largest = tl.max(tl.trans(swapped), axis=0)
    order = tl.reshape(tl.arange(0, 4)[:, None] * 0 + 3 - tl.arange(0, 4)[None, :], [4, 4])
    made = tl.gather(swapped, order, 1) * tl.sum(values) + tl.dot(swapped, swapped.T, input_precision="ieee")
    made += tl.where(part > 0, largest, tl.min(swapped, axis=1))[:, None]
    place = y + (row * PARTS + part) * WIDTH + column
    if KIND == "atomic":
        tl.atomic_add(place, tl.reshape(made, [WIDTH]))
    elif KIND == "scan":
        tl.store(place, tl.cumsum(tl.reshape(made, [WIDTH]), 0))
    elif KIND == "odd reduction":
        tl.store(place, made.to(tl.float32) * 0 + tl.xor_sum(column))
    else:
        tl.store(place, tl.reshape(made, [WIDTH]))


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    del task, tactic
    return (ROWS, PARTS, 1)


def _task(kind: str = "plain", rows: int = ROWS) -> Task:
    arguments = (Argument("x", "r", "f32", (rows, WIDTH)), Argument("y", "w", "f32", (ROWS, PARTS, WIDTH)))
    return Task("lanes_probe", {"PARTS": PARTS, "WIDTH": WIDTH, "KIND": kind}, arguments, flops=0)


def _rows(count: int = ROWS) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(0).integers(-9, 9, (count, WIDTH)).astype(np.float32)  # all sums are exact


def _expected(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    y = np.empty((ROWS, PARTS, WIDTH), np.float32)
    for row in range(ROWS):
        for part in range(PARTS):
            values = (-x[row] if part == 1 else x[row]) + part * (row + 1)
            swapped = values.reshape(8, 2)[:, ::-1].reshape(4, 4)
            edge = swapped.max(1) if part > 0 else swapped.min(1)
            y[row, part] = (swapped[:, ::-1] * values.sum() + swapped @ swapped.T + edge[:, None]).reshape(-1)
    return y


@pytest.fixture(autouse=True)
def _this_module_as_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightwam.kernels.ops.lanes_probe", sys.modules[__name__])


@pytest.mark.parametrize("batch", [1, 4, 128])
def test_programs_at_once_compute_what_each_computes(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """They part at an `if` and at a loop's end; `run_arrays` counts that each element was written once."""
    monkeypatch.setattr(interpret, "BATCH", batch)
    np.testing.assert_array_equal(run_arrays(_task(), TACTIC, {"x": _rows()})["y"], _expected(_rows()))


def test_the_first_program_that_fails_is_named() -> None:
    with pytest.raises(LaunchError, match="reads bytes 192 to 256 of x, which has 192"):
        run_arrays(_task(rows=3), TACTIC, {"x": _rows(3)})


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("atomic", "atomic_rmw is not interpreted"),
        ("scan", "scans are not interpreted"),
        ("odd reduction", "only sums, maxima and minima"),
    ],
)
def test_what_lanes_lack_is_refused(kind: str, named: str) -> None:
    with pytest.raises(LaunchError, match=f"kernel lanes_probe: {named}"):
        run_arrays(_task(kind), TACTIC, {"x": _rows()})
