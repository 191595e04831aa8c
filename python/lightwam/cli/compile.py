# SPDX-License-Identifier: Apache-2.0
"""`lightwam compile`: a launch plan and machine code for GPUs into an engine file. No GPU is needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from lightwam.engine.file import check_checksums, read_engine
from lightwam.errors import ConfigError
from lightwam.kernels.targets import TARGETS, describe, known_targets, lacking
from lightwam.progress import counting_bar, progress_bar

if TYPE_CHECKING:
    from lightwam.gpu.compile import CompiledPlan
    from lightwam.kernels.compiler.tasks import CompiledTask


_TARGETS_HELP = (
    f"GPUs, separated by commas: {describe()}; all that have the engine's formats when absent (without fp8: "
    f"{', '.join(name for name, target in TARGETS.items() if not target.fp8)})."
)


@dataclass(frozen=True)
class CompileArgs:
    """Add a launch plan and machine code for GPUs to an engine file."""

    engine: Positional[Path]
    """Engine file (*.lwam); what it holds for GPUs already is left out."""
    out: Positional[Path]
    """The engine file to write; may be the same."""
    targets: Annotated[str | None, arg(help=_TARGETS_HELP)] = None
    tactics: int = 3
    """Ways of each matrix product to compile, among which the runtime may choose."""
    cache: Path | None = None
    """Folder that keeps compiled kernels; ~/.cache/lightwam/kernels when absent."""
    jobs: int | None = None
    """Kernels compiled at a time; as many as cores when absent."""


def main(arguments: CompileArgs) -> int:
    """Compile and print what was made. Raises `ConfigError`, `EngineError`, `ExportError`."""
    check_targets(arguments.targets)
    for name, value in (("tactics", arguments.tactics), ("jobs", arguments.jobs)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}: use at least 1")
    compile_engine(arguments)
    return 0


def check_targets(text: str | None) -> tuple[str, ...]:
    """The targets of a list with commas, all for None.

    Raises `ConfigError` for one that is unknown, and where Triton is absent.
    """
    try:
        import triton  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"compiling for GPUs: the module {error.name!r} is not installed: pip install 'lightwam[export,gpu]'"
        ) from None
    try:
        return (
            tuple(TARGETS) if text is None else known_targets(name.strip() for name in text.split(",") if name.strip())
        )
    except ValueError as error:
        raise ConfigError(f"--targets: {error}") from None


def compile_engine(arguments: CompileArgs) -> None:
    """Lower the engine's graph, compile its tasks, write the file, print a table."""
    from lightwam.gpu.compile import compile_plan, write_gpu_engine
    from lightwam.gpu.lower import lower
    from lightwam.kernels.compiler.cache import CompileCache, user_cache_folder
    from lightwam.kernels.compiler.tasks import Compiler

    graph = read_engine(arguments.engine)
    plan = lower(graph)
    targets = check_targets(arguments.targets)
    without = lacking([planned.task for planned in plan.tasks], targets)
    if arguments.targets is None and without:
        targets = tuple(name for name in targets if name not in without)
        print(f"left out: {', '.join(without)}, without fp8 products; an int8 engine runs there")
    size = graph.constant_bytes()
    with progress_bar("checking", size, True) as advance:
        check_checksums(arguments.engine, advance)
    compiler = Compiler(CompileCache(arguments.cache or user_cache_folder()), arguments.jobs or os.cpu_count() or 1)
    with counting_bar("compiling", True) as on_progress:
        compiled = compile_plan(plan, targets, compiler, arguments.tactics, on_progress)
    total = size + sum(len(image) for image in compiled.images.values())
    with progress_bar("writing", total, True) as advance:
        written = write_gpu_engine(graph, compiled, arguments.out, advance)
    print_summary(compiled, compiler.compiled)
    print(f"{arguments.out}: {written / 1e6:.1f} MB")


def print_summary(compiled: CompiledPlan, new: int) -> None:
    """A row for every target, then the tactics kept although they spill."""
    from rich.console import Console
    from rich.table import Table

    table = Table("target", "tasks", "tactics", "dropped", "most registers", "most shared bytes", "MB")
    for target, image in compiled.images.items():
        results = [row[target] for row in compiled.results]
        codes = [tactic.code for result in results for tactic in result.kept]
        counts = (len(results), len(codes), sum(len(result.dropped) for result in results))
        most = (max(code.registers for code in codes), max(code.shared for code in codes))
        table.add_row(target, *map(str, (*counts, *most)), f"{len(image) / 1e6:.2f}")
    Console().print(table)
    for result in (result for row in compiled.results for result in row.values()):
        print_note(result)
    megabytes = sum(len(image) for image in compiled.images.values()) / 1e6
    print(f"{megabytes:.2f} MB of machine code; {new} variants compiled, others were in the cache")


def print_note(result: CompiledTask) -> None:
    """A line for each tactic that has a note."""
    for tactic in result.kept:
        if tactic.note:
            print(f"{result.task.kernel} for {result.target} {tactic.note}: no tactic does without")
