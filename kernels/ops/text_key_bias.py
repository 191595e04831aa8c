# SPDX-License-Identifier: Apache-2.0
"""`text_key_bias` of docs/reference/engine-format.md, section 4: one padded text row stands for all of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.task import Argument, Tactic, Task


@triton.jit
def kernel(text_rows, key_bias, key_count, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.load(text_rows)
    row = tl.arange(0, BLOCK)
    padded = tl.log(tl.maximum(ROWS - rows, 1).to(tl.float32))
    tl.store(key_bias + row, tl.where(row == rows, padded, 0.0), mask=row < ROWS)
    tl.store(key_count, tl.minimum(rows + 1, ROWS))


def task(context_rows: int) -> Task:
    """text_rows i32 [1] (0 .. context_rows) -> key_bias f32 [context_rows], key_count i32 [1]."""
    arguments = (
        Argument("text_rows", "r", "i32", (1,)),
        Argument("key_bias", "w", "f32", (context_rows,)),
        Argument("key_count", "w", "i32", (1,)),
    )
    return Task("text_key_bias", {"ROWS": context_rows}, arguments, flops=0)


def tactics(task: Task, target: str) -> list[Tactic]:
    return [Tactic({"BLOCK": triton.next_power_of_2(task.integer("ROWS"))}, num_warps=1)]


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    return (1, 1, 1)


def example(task: Task, generator: np.random.Generator) -> dict[str, Array]:
    """Some rows in use; all of them where there are few."""
    rows = task.integer("ROWS")
    return {"text_rows": np.array([rows if rows < 8 else generator.integers(1, rows)])}


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    rows, in_use = task.integer("ROWS"), int(arguments["text_rows"][0])
    bias = np.zeros(rows)
    if in_use < rows:
        bias[in_use] = np.log(rows - in_use)
    return {"key_bias": bias, "key_count": np.array([min(in_use + 1, rows)])}


CASES = [task(1), task(5), task(24), task(128), task(200)]
