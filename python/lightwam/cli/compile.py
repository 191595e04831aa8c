# SPDX-License-Identifier: Apache-2.0
"""`lightwam compile`: a launch plan and machine code for GPUs into an engine file. No GPU is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lightwam.cli.parse import Positional
from lightwam.kernels.targets import TARGETS, describe

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
    targets: str | None = field(default=None, metadata={"help": _TARGETS_HELP})
    tactics: int = 3
    """Ways of each matmul to compile, among which the runtime may choose."""
    cache: Path | None = None
    """Folder that keeps compiled kernels; ~/.cache/lightwam/kernels when absent."""
    jobs: int | None = None
    """Kernels compiled at a time; as many as cores when absent."""


def main(arguments: CompileArgs) -> int:
    """Compile and print what was made. Raises `ConfigError`, `EngineError`, `ExportError`."""
    from lightwam.gpu.compile import CompileOptions, compile_engine, parse_targets

    targets = None if arguments.targets is None else parse_targets(arguments.targets)
    options = CompileOptions(targets, arguments.tactics, arguments.cache, arguments.jobs)
    made = compile_engine(arguments.engine, arguments.out, options, show_progress=True)
    print("\n".join(made.summary()))
    return 0
