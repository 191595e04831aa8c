# SPDX-License-Identifier: Apache-2.0
"""Kernels on arrays: each argument between guard bytes, each written element counted, in Triton's interpreter."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from lightwam.kernels.formats import STORAGE, Array
from lightwam.kernels.interpreter.interpret import run_extents
from lightwam.kernels.interpreter.patches import Extent, LaunchError
from lightwam.kernels.task import Argument, Tactic, Task

GUARD_BYTES = 256
ALIGNMENT = 256  # of arrays; a plan's arena is laid out like this
POISON = 0xFF  # every byte: NaN in each float format, -1 in integers


def run_arrays(task: Task, tactic: Tactic, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Runs a task on copies of the read arguments; returns the written ones.

    Arrays are as stored (`formats.encode`; bfloat16 as uint16 bits) and keep the argument's shape. Every argument lies
    between guard bytes; what is written is filled with NaN bytes first. LaunchError if an element of a written
    argument is not written exactly once, or a byte beside the arguments changed.
    """
    memory, views = lay_out(task, arrays)
    before = memory.copy()
    base = int(memory.ctypes.data)
    extents = [
        Extent(a.name, a.mode, base + start, end - start, None if a.mode == "r" else _counters(a))
        for a, (start, end) in zip(task.arguments, views, strict=True)
    ]
    run_extents(task, tactic, extents)
    outputs: dict[str, Array] = {}
    for argument, extent, (start, end) in zip(task.arguments, extents, views, strict=True):
        if extent.writes is None:
            continue
        _check_writes(task, argument, extent.writes)
        shape = argument.shape if argument.shape is not None else (-1,)
        outputs[argument.name] = memory[start:end].view(STORAGE[argument.dtype]).reshape(shape).copy()
        memory[start:end] = before[start:end]
    if not np.array_equal(memory, before):
        raise LaunchError(f"kernel {task.kernel}: bytes outside of the written arguments changed")
    return outputs


def lay_out(task: Task, arrays: Mapping[str, Array]) -> tuple[Array, list[tuple[int, int]]]:
    """Poisoned memory with the read arguments in it, guard bytes between, and where each argument starts and ends."""
    views, size, contents = [], GUARD_BYTES, []
    for argument in task.arguments:
        content = None
        if argument.mode == "r":
            content = np.ascontiguousarray(arrays[argument.name])
            if content.dtype != STORAGE[argument.dtype] or argument.shape not in (None, content.shape):
                got = f"{content.dtype}{list(content.shape)}"
                raise ValueError(f"argument {argument.name}: expected {argument.dtype}{argument.shape}, got {got}")
        num_bytes = argument.num_bytes if content is None else content.nbytes
        if num_bytes is None:
            raise ValueError(f"argument {argument.name}: a written argument needs a shape")
        views.append((size, size + num_bytes))
        contents.append(content)
        size += -(-num_bytes // ALIGNMENT) * ALIGNMENT + GUARD_BYTES
    whole = np.full(size + ALIGNMENT, POISON, np.uint8)
    offset = -int(whole.ctypes.data) % ALIGNMENT
    memory = whole[offset : offset + size]
    for (start, end), content in zip(views, contents, strict=True):
        if content is not None:
            memory[start:end] = content.reshape(-1).view(np.uint8)
    return memory, views


def _counters(argument: Argument) -> Array:
    assert argument.shape is not None
    return np.zeros(math.prod(argument.shape), np.int32)


def _check_writes(task: Task, argument: Argument, writes: Array) -> None:
    wrong = np.flatnonzero(writes != 1)
    if wrong.size:
        raise LaunchError(
            f"kernel {task.kernel}: {wrong.size} of {writes.size} elements of {argument.name} not written exactly "
            f"once; element {wrong[0]} was written {writes[wrong[0]]} times"
        )
