# SPDX-License-Identifier: Apache-2.0
"""Tasks run on the CPU, by Triton's interpreter: the proof of a kernel, and of a plan, where no GPU is.

The interpreter executes the kernel's own source with NumPy. It is built here from the compiled
function, so one process interprets and compiles (TRITON_INTERPRET stays unset). On top of Triton's own:
- bfloat16 is computed in float32 and rounded to nearest even (Triton 3.9.0 multiplies its bits as integers), e4m3 is
  rounded to nearest even and saturates, as the hardware's conversion does (Triton truncates, and wraps);
- every address read or written must lie in an argument of the right mode, and in the one that its pointer came from;
- a float32 matmul in the tensor cores' ten bits of mantissa is an error: the interpreter would hide what it loses.
What it can't show: races, the hardware's own rounding, errors of the compiler, speed.

Its cost is Python, about 20 microseconds a tensor operation, so it runs many programs at once (lanes.py).
Set OPENBLAS_NUM_THREADS=1 before NumPy loads: matmuls are small, and its threads only wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from triton import language as tl
from triton.runtime import interpreter as triton_interpreter

from lightwam.kernels.formats import POINTERS, Array
from lightwam.kernels.interpreter.lanes import Parted
from lightwam.kernels.interpreter.patches import patched, rewritten
from lightwam.kernels.interpreter.running import Extent, LaunchError, Running
from lightwam.kernels.task import Argument, Tactic, Task, kernel_module, kernel_parameters

BATCH = 128  # programs at once: arrays of larger batches leave the processor's cache


def run(task: Task, tactic: Tactic, addresses: Sequence[int], extents: Mapping[str, int] | None = None) -> None:
    """Runs every program of a launch on the memory at `addresses`, one for each argument of the task, in its order.

    `extents` holds the bytes of arguments whose shape is only known at run time. Raises LaunchError (one line) for an
    access outside of an argument, ValueError for a task or tactic that does not fit its kernel.
    """
    if len(addresses) != len(task.arguments):
        raise ValueError(f"kernel {task.kernel}: {len(addresses)} addresses for {len(task.arguments)} arguments")
    found = []
    for argument, address in zip(task.arguments, addresses, strict=True):
        size = argument.num_bytes if argument.num_bytes is not None else (extents or {}).get(argument.name)
        if size is None:
            raise ValueError(f"argument {argument.name}: its bytes are not known from the task; pass them in extents")
        found.append(Extent(argument.name, argument.mode, address, size))
    run_extents(task, tactic, found)


def run_extents(task: Task, tactic: Tactic, extents: Sequence[Extent]) -> None:
    """`run`, on extents of memory; counts the writes of those that have `writes`."""
    module = kernel_module(task)
    grid = tuple(module.grid(task, tactic))
    numbers = {argument.name: index for index, argument in enumerate(task.arguments)}
    with patched(task.kernel, extents) as running:
        bound = {
            name: _pointer(value, numbers[value.name], extents) if isinstance(value, Argument) else value
            for name, value in kernel_parameters(task, tactic).items()
        }
        function = rewritten(module.kernel)
        triton_interpreter.interpreter_builder.set_grid_dim(*grid)
        programs = np.indices((*grid, 1, 1)[:3], np.int32).reshape(3, -1).T
        for start in range(0, len(programs), BATCH):
            _run_batch(function, bound, running, programs[start : start + BATCH])


def _run_batch(function: Callable[..., Any], bound: Mapping[str, Any], running: Running, programs: Array) -> None:
    """Programs at once, or in parts where they part; one by one where one of them fails, so that the first is named."""
    running.begin(programs)
    try:
        function(**bound)
    except Parted as parted:
        parts = [programs[side] for side in parted.sides]
    except LaunchError:
        if len(programs) == 1:
            raise
        parts = [programs[i : i + 1] for i in range(len(programs))]
    else:
        running.end()
        return
    for part in parts:
        _run_batch(function, bound, running, part)


def _pointer(argument: Argument, number: int, extents: Sequence[Extent]) -> Any:
    """A Triton pointer whose topmost byte names the argument, so that an access can be held against its extent."""
    address = np.array([extents[number].tagged(number)], np.uint64)
    pointer_type = tl.str_to_ty(POINTERS[argument.dtype], None)
    return tl.tensor(triton_interpreter.TensorHandle(address, pointer_type), pointer_type)
