# SPDX-License-Identifier: Apache-2.0
"""A launch plan's tasks to machine code, and both into an engine file (docs/reference/launch-plan.md, section 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lightwam.engine.dtypes import Array
from lightwam.engine.file import GpuPart, write_engine
from lightwam.engine.graph import Constant, Graph, TensorType
from lightwam.errors import ExportError
from lightwam.gpu.plan import Code, LaunchPlan, plan_to_json
from lightwam.gpu.verify import check_plan
from lightwam.kernels.compiler.tasks import MOST_TACTICS, CompiledTactic, CompiledTask, CompileError, Compiler
from lightwam.kernels.interpreter.interpret import kernel_module
from lightwam.kernels.task import Tactic, Task

CODE_ALIGNMENT = 64  # of every cubin in its image
IMAGE_PREFIX = "gpu.code."


@dataclass(frozen=True)
class CompiledPlan:
    """A plan whose tasks have tactics, the image of every target, and what came of each task (in the plan's order)."""

    plan: LaunchPlan
    images: Mapping[str, bytes]
    results: tuple[Mapping[str, CompiledTask], ...]

    def kernels(self) -> dict[tuple[str, str], tuple[Task, Tactic]]:
        """(SHA-256, entry) of each cubin -> a task and tactic that it computes, for running launches without a GPU."""
        return {
            (hashlib.sha256(compiled.code.cubin).hexdigest(), compiled.code.entry): (result.task, compiled.tactic)
            for row in self.results
            for result in row.values()
            for compiled in result.kept
        }


def compile_plan(
    plan: LaunchPlan,
    targets: Sequence[str],
    compiler: Compiler,
    most_tactics: int = MOST_TACTICS,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CompiledPlan:
    """Compile every task of a plan for every target. `on_progress` hears of the variants that are done, and of all.

    Raises `ExportError` for an unknown target, and for a task that cannot be compiled for one.
    """
    try:
        results = compiler.compile([planned.task for planned in plan.tasks], targets, most_tactics, on_progress)
    except CompileError as error:
        raise ExportError(f"{error}: leave this target out") from error
    except ValueError as error:
        raise ExportError(str(error)) from error
    images: dict[str, bytes] = {}
    tactics: list[dict[str, tuple[Code, ...]]] = [{} for _ in plan.tasks]
    for target in dict.fromkeys(targets):
        image, offsets = _image([compiled for row in results for compiled in row[target].kept])
        images[target] = image
        for task_tactics, row in zip(tactics, results, strict=True):
            task_tactics[target] = tuple(_code(row[target].task, c, offsets[c.key]) for c in row[target].kept)
    tasks = tuple(replace(planned, tactics=codes) for planned, codes in zip(plan.tasks, tactics, strict=True))
    names = {target: IMAGE_PREFIX + target for target in images}
    return CompiledPlan(replace(plan, tasks=tasks, images=names), images, tuple(results))


def _image(compiled: Sequence[CompiledTactic]) -> tuple[bytes, dict[str, int]]:
    """All machine code of a target, each once, and where that of each key begins."""
    image = bytearray()
    offsets: dict[str, int] = {}
    for tactic in compiled:
        if tactic.key not in offsets:
            offsets[tactic.key] = len(image)
            image += tactic.code.cubin + bytes(-len(tactic.code.cubin) % CODE_ALIGNMENT)
    return bytes(image), offsets


def _code(task: Task, compiled: CompiledTactic, offset: int) -> Code:
    code, tactic = compiled.code, compiled.tactic
    x, y, z = kernel_module(task).grid(task, tactic)
    constants = " ".join(f"{name}={value}" for name, value in tactic.constants.items())
    note = f"{constants} warps={tactic.num_warps} stages={tactic.num_stages}"
    return Code(
        entry=code.entry,
        offset=offset,
        num_bytes=len(code.cubin),
        grid=(x, y, z),
        threads=code.threads,
        shared=code.shared,
        registers=code.registers,
        note=f"{note} {compiled.note}".strip(),
    )


def gpu_part(compiled: CompiledPlan, graph: Graph) -> GpuPart:
    """What an engine file holds beside its graph. Raises `ExportError` if the plan breaks a rule or a name is taken."""
    check_plan(compiled.plan, graph)
    tensors = dict(compiled.plan.derived)
    for target, image in compiled.images.items():
        tensors[compiled.plan.images[target]] = _image_tensor(compiled.plan.images[target], image)
    taken = sorted(tensors.keys() & graph.constants.keys())
    if taken:
        raise ExportError(f"tensor {taken[0]} of the graph has a name of the launch plan: rename it")
    return GpuPart(plan_to_json(compiled.plan), tensors)


def _image_tensor(name: str, image: bytes) -> Constant:
    def load() -> Array:
        return np.frombuffer(image, np.int8)

    return Constant(name, TensorType("i8", (len(image),)), load)


def write_gpu_engine(graph: Graph, compiled: CompiledPlan, path: Path, on_bytes: Callable[[int], None]) -> int:
    """Write the graph with the plan and its machine code, tensor by tensor. Returns the file's size in bytes."""
    return write_engine(graph, path, on_bytes, gpu_part(compiled, graph))
