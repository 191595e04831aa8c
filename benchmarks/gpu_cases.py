# SPDX-License-Identifier: Apache-2.0
"""Every case of every kernel as machine code on the GPU, beside its reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gpu_driver import Gpu, GpuError

from helpers import kernel_parity as parity
from helpers.kernel_runs import lay_out
from lightwam.kernels.compiler.cache import CompileCache
from lightwam.kernels.compiler.tasks import CompiledTactic, CompiledTask, CompileError, Compiler
from lightwam.kernels.compiler.variant import Code
from lightwam.kernels.formats import STORAGE, Array
from lightwam.kernels.task import Task, kernel_module


def check_kernels(
    gpu: Gpu,
    target: str,
    cache: Path,
    jobs: int,
    tasks: Sequence[Task] | None = None,
    most_tactics: int = 1,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compile and run the cases (all by default): {"cases", "launches", "faults": lines, "refused": lines}.

    `refused`: cases for which there is no machine code. After an error that loses the GPU no more cases run.
    """
    cases = [task for module in parity.modules() for task in module.CASES] if tasks is None else list(tasks)
    refused: list[str] = []
    compiled = _compiled(Compiler(CompileCache(cache), jobs), cases, target, most_tactics, refused)
    report(f"{len(compiled)} of {len(cases)} cases compiled")
    faults: list[str] = []
    launches = 0
    try:
        for result in compiled:
            stored = parity.inputs(result.task)
            expected = parity.reference(result.task, stored)
            for kept in result.kept:
                launches += 1
                lines = _differences(gpu, result.task, kept, stored, expected)
                for line in lines:
                    report(line)
                faults += lines
    except GpuError as error:
        faults.append(f"launch {launches}, {result.task.kernel} {dict(result.task.constants)}: {error}; no more ran")
    return {"cases": len(cases), "launches": launches, "faults": faults, "refused": refused}


def _differences(
    gpu: Gpu, task: Task, compiled: CompiledTactic, stored: dict[str, Array], expected: dict[str, Array]
) -> list[str]:
    try:
        lines = parity.differences(task, run_on_gpu(gpu, task, compiled, stored), expected)
    except ValueError as error:
        lines = [f"{task.kernel} {dict(task.constants)}: {error}"]
    return [f"{line} ({dict(compiled.tactic.constants)})" for line in lines]


def _compiled(
    compiler: Compiler, cases: Sequence[Task], target: str, most_tactics: int, refused: list[str]
) -> list[CompiledTask]:
    """All cases at once; one by one where a case has no machine code (what compiled is known by then)."""
    try:
        return [row[target] for row in compiler.compile(cases, [target], most_tactics)]
    except CompileError:
        results = []
        for task in cases:
            try:
                results.append(compiler.compile([task], [target], most_tactics)[0][target])
            except CompileError as error:
                refused.append(str(error))
        return results


def run_on_gpu(gpu: Gpu, task: Task, compiled: CompiledTactic, stored: dict[str, Array]) -> dict[str, Array]:
    """Run one launch on copies of the read arguments; the written ones, as stored.

    Every argument lies between guard bytes, and what is written is filled with NaN bytes first. Raises ValueError if a
    byte beside the written arguments changed, `GpuError` if the launch failed.
    """
    before, views = lay_out(task, stored)
    code: Code = compiled.code
    grid = kernel_module(task).grid(task, compiled.tactic)
    function = gpu.load(code.cubin, code.entry, grid, code.threads, code.shared)
    base = gpu.allocate(before.nbytes)
    try:
        gpu.upload(base, before)
        gpu.launch(function, [base + start for start, _ in views])
        after = np.frombuffer(gpu.download(base, before.nbytes), np.uint8).copy()
    finally:
        gpu.free(base)
    outputs: dict[str, Array] = {}
    for argument, (start, end) in zip(task.arguments, views, strict=True):
        if argument.mode == "w":
            shape = argument.shape if argument.shape is not None else (-1,)
            outputs[argument.name] = after[start:end].view(STORAGE[argument.dtype]).reshape(shape).copy()
            after[start:end] = before[start:end]
    if not np.array_equal(after, before):
        raise ValueError("bytes outside of the written arguments changed")
    return outputs
