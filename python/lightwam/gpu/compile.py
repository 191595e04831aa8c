# SPDX-License-Identifier: Apache-2.0
"""A launch plan's tasks to machine code, and both into an engine file (docs/reference/launch-plan.md, section 2)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lightwam.arithmetic import default_arithmetic
from lightwam.engine.file import GpuPart, check_checksums, check_engine_output, read_engine, write_engine
from lightwam.engine.graph import Constant, Graph, TensorType
from lightwam.errors import ConfigError, ExportError
from lightwam.gpu.lower import lower
from lightwam.gpu.plan import Code, LaunchPlan, plan_to_json
from lightwam.gpu.verify import verify_plan
from lightwam.kernels.compiler.cache import CompileCache, user_cache_folder
from lightwam.kernels.compiler.tasks import MOST_TACTICS, CompiledTactic, CompiledTask, CompileError, Compiler
from lightwam.kernels.targets import TARGETS, known_targets, lacking
from lightwam.kernels.task import Task, kernel_module
from lightwam.progress import counting_bar, progress_bar

CODE_ALIGNMENT = 64  # of every cubin module in the machine code of its target
CODE_PREFIX = "gpu.code."


@dataclass(frozen=True)
class CompileOptions:
    """How `compile_engine` works. Raises `ConfigError` for a number below 1.

    targets: what to compile for; all that have the engine's formats when None.
    tactics: ways of each matmul to compile, among which the runtime may choose.
    cache: folder that keeps compiled kernels; the user's cache when None.
    jobs: kernels compiled at a time; as many as cores when None.
    """

    targets: tuple[str, ...] | None = None
    tactics: int = MOST_TACTICS
    cache: Path | None = None
    jobs: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("tactics", self.tactics), ("jobs", self.jobs)):
            if value is not None and value < 1:
                raise ConfigError(f"--{name} is {value}: use at least 1")


@dataclass(frozen=True)
class CompiledPlan:
    """A plan whose tasks have tactics, the machine code of every target, and what came of each task (in plan order)."""

    plan: LaunchPlan
    machine_code: Mapping[str, bytes]
    results: tuple[Mapping[str, CompiledTask], ...]


@dataclass(frozen=True)
class CompiledEngine:
    """An engine file that was written: its size, its plan, variants that no cache held, targets without its formats."""

    path: Path
    num_bytes: int
    compiled: CompiledPlan
    new_variants: int
    left_out: tuple[str, ...]

    def summary(self) -> Iterator[str]:
        """A line for every target, one for each tactic that is kept although it spills, and the sizes."""
        if self.left_out:
            yield f"left out: {', '.join(self.left_out)}, without fp8 matmuls; an int8 engine runs there"
        results, machine_code = self.compiled.results, self.compiled.machine_code
        for target, code in machine_code.items():
            kept = [tactic.code for row in results for tactic in row[target].kept]
            dropped = sum(len(row[target].dropped) for row in results)
            registers, shared = max(code.registers for code in kept), max(code.shared for code in kept)
            yield (
                f"{target}: {len(results)} tasks, {len(kept)} tactics ({dropped} dropped), at most {registers} "
                f"registers and {shared} bytes of shared memory, {len(code) / 1e6:.2f} MB"
            )
        for result in (result for row in results for result in row.values()):
            for tactic in (tactic for tactic in result.kept if tactic.note):
                yield f"{result.task.kernel} for {result.target} {tactic.note}: no tactic does without"
        megabytes = sum(map(len, machine_code.values())) / 1e6
        yield f"{megabytes:.2f} MB of machine code; {self.new_variants} variants compiled, others were in the cache"
        yield f"{self.path}: {self.num_bytes / 1e6:.1f} MB"


def parse_targets(text: str) -> tuple[str, ...]:
    """The targets of a list with commas. Raises `ConfigError` for one that is unknown, and for none."""
    try:
        return known_targets(name.strip() for name in text.split(",") if name.strip())
    except ValueError as error:
        raise ConfigError(f"--targets: {error}") from None


@default_arithmetic
def compile_engine(engine: Path, out: Path, options: CompileOptions, show_progress: bool = False) -> CompiledEngine:
    """Lower an engine file's graph, compile its tasks, write both to `out`, which may be the same file.

    What the file holds for GPUs already is left out. Raises `ConfigError`, `EngineError` and `ExportError`.
    """
    check_engine_output(out)
    graph = read_engine(engine)
    plan = lower(graph)
    tasks = [planned.task for planned in plan.tasks]
    left_out = () if options.targets is not None else lacking(tasks, TARGETS)
    targets = options.targets or tuple(name for name in TARGETS if name not in left_out)
    size = graph.constant_bytes()
    with progress_bar("checking", size, show_progress) as advance:
        check_checksums(engine, advance)
    compiler = Compiler(_open_cache(options.cache), options.jobs or os.cpu_count() or 1)
    with counting_bar("compiling", show_progress) as on_progress:
        compiled = compile_plan(plan, targets, compiler, options.tactics, on_progress)
    total = size + sum(map(len, compiled.machine_code.values()))
    with progress_bar("writing", total, show_progress) as advance:
        written = write_engine(graph, out, advance, gpu_part(compiled, graph), read_back=True)
    return CompiledEngine(out, written, compiled, compiler.compiled, left_out)


def _open_cache(folder: Path | None) -> CompileCache:
    """The folder of compiled kernels. Raises `ConfigError` where it cannot be made: no home, a read-only one."""
    try:
        return CompileCache(folder or user_cache_folder())
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"the folder of compiled kernels cannot be made ({error}): give one that can be written with --cache"
        ) from error


def compile_plan(
    plan: LaunchPlan,
    targets: Sequence[str],
    compiler: Compiler,
    most_tactics: int = MOST_TACTICS,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CompiledPlan:
    """Compile every task of a plan for every target. `on_progress` gets how many variants are done, and of how many.

    Raises `ExportError` for an unknown target, and for a task that cannot be compiled for one.
    """
    try:
        results = compiler.compile([planned.task for planned in plan.tasks], targets, most_tactics, on_progress)
    except CompileError as error:
        raise ExportError(f"{error}: leave this target out") from error
    except ValueError as error:
        raise ExportError(str(error)) from error
    machine_code: dict[str, bytes] = {}
    tactics: list[dict[str, tuple[Code, ...]]] = [{} for _ in plan.tasks]
    for target in dict.fromkeys(targets):
        kept = [compiled for row in results for compiled in row[target].kept]
        machine_code[target], offsets = _cubin_modules(kept)
        for task_tactics, row in zip(tactics, results, strict=True):
            task_tactics[target] = tuple(_code(row[target].task, c, offsets[c.key]) for c in row[target].kept)
    tasks = tuple(replace(planned, tactics=codes) for planned, codes in zip(plan.tasks, tactics, strict=True))
    names = {target: CODE_PREFIX + target for target in machine_code}
    return CompiledPlan(replace(plan, tasks=tasks, machine_code=names), machine_code, tuple(results))


def _cubin_modules(compiled: Sequence[CompiledTactic]) -> tuple[bytes, dict[str, int]]:
    """The cubin modules of a target, each once, and where that of each key begins."""
    modules = bytearray()
    offsets: dict[str, int] = {}
    for tactic in compiled:
        if tactic.key not in offsets:
            offsets[tactic.key] = len(modules)
            modules += tactic.code.cubin + bytes(-len(tactic.code.cubin) % CODE_ALIGNMENT)
    return bytes(modules), offsets


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
    verify_plan(compiled.plan, graph)
    tensors = dict(compiled.plan.derived)
    for target, code in compiled.machine_code.items():
        name = compiled.plan.machine_code[target]
        tensors[name] = Constant(name, TensorType("i8", (len(code),)), functools.partial(np.frombuffer, code, np.int8))
    taken = sorted(tensors.keys() & graph.constants.keys())
    if taken:
        raise ExportError(f"tensor {taken[0]} of the graph has a name of the launch plan: rename it")
    return GpuPart(plan_to_json(compiled.plan), tensors)
