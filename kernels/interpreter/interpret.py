# SPDX-License-Identifier: Apache-2.0
"""Tasks run on the CPU, by Triton's interpreter: the proof of a kernel, and of a plan, where no GPU is.

The interpreter executes the kernel's own source with NumPy, program by program. It is built here from the compiled
function, so one process interprets and compiles (TRITON_INTERPRET stays unset). On top of Triton's own:
- bfloat16 is computed in float32 and rounded to nearest even (Triton 3.9.0 multiplies its bits as integers), e4m3 is
  rounded to nearest even and saturates, as the hardware's conversion does (Triton truncates, and wraps);
- every address read or written must lie in an argument of the right mode, and in the one that its pointer came from;
- a float32 matmul in the tensor cores' ten bits of mantissa is an error: the interpreter would hide what it loses.
What it can't show: races, the hardware's own rounding, errors of the compiler, speed.

Its cost is Python: about 20 microseconds a tensor operation a program, whatever the size. Large blocks are fast here.
Set OPENBLAS_NUM_THREADS=1 before NumPy loads: matmuls are small, and its threads only wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from triton import language as tl
from triton.runtime import interpreter as triton_interpreter

from lightwam.kernels.formats import STORAGE, Array
from lightwam.kernels.interpreter.patches import Extent, LaunchError, patched, rewritten
from lightwam.kernels.task import Argument, DType, Tactic, Task, kernel_module, kernel_parameters

__all__ = ["LaunchError", "kernel_module", "kernel_parameters", "lay_out", "run", "run_arrays"]

_POINTEES: Mapping[DType, Any] = {
    "f32": tl.float32,
    "f16": tl.float16,
    "bf16": tl.bfloat16,
    "f8": tl.float8e4nv,
    "i8": tl.int8,
    "i32": tl.int32,
    "u8": tl.uint8,
}
GUARD_BYTES = 256
ALIGNMENT = 256  # of arrays; a plan's arena is laid out like this
POISON = 0xFF  # every byte: NaN in each float format, -1 in integers


def run(task: Task, tactic: Tactic, addresses: Sequence[int], extents: Mapping[str, int] | None = None) -> None:
    """Runs every program of a launch on the memory at `addresses`, one for each argument of the task, in its order.

    `extents` holds the bytes of arguments whose shape is only known at run time. Raises LaunchError (one line) for an
    access outside of an argument, ValueError for a task or tactic that does not fit its kernel.
    """
    if len(addresses) != len(task.arguments):
        raise ValueError(f"kernel {task.kernel}: {len(addresses)} addresses for {len(task.arguments)} arguments")
    run_extents(task, tactic, [_extent(a, at, extents or {}) for a, at in zip(task.arguments, addresses, strict=True)])


def run_extents(task: Task, tactic: Tactic, extents: Sequence[Extent]) -> None:
    """`run`, on extents of memory; counts the writes of those that have `writes`."""
    module = kernel_module(task)
    grid = tuple(module.grid(task, tactic))
    numbers = {argument.name: index for index, argument in enumerate(task.arguments)}
    with patched(task.kernel, extents):
        bound = {
            name: _pointer(value, numbers[value.name], extents) if isinstance(value, Argument) else value
            for name, value in kernel_parameters(task, tactic).items()
        }
        function = rewritten(module.kernel.fn)
        builder = triton_interpreter.interpreter_builder
        builder.set_grid_dim(*grid)
        for x in range(grid[0]):
            for y in range(grid[1]):
                for z in range(grid[2]):
                    builder.set_grid_idx(x, y, z)
                    function(**bound)


def _extent(argument: Argument, address: int, extents: Mapping[str, int]) -> Extent:
    size = argument.num_bytes if argument.num_bytes is not None else extents.get(argument.name)
    if size is None:
        raise ValueError(f"argument {argument.name}: its bytes are not known from the task; pass them in extents")
    return Extent(argument.name, argument.mode, address, size)


def _pointer(argument: Argument, number: int, extents: Sequence[Extent]) -> Any:
    """A Triton pointer whose topmost byte names the argument, so that an access can be held against its extent."""
    address = np.array([extents[number].tagged(number)], np.uint64)
    pointer_type = tl.pointer_type(_POINTEES[argument.dtype])
    return tl.tensor(triton_interpreter.TensorHandle(address, pointer_type), pointer_type)


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
