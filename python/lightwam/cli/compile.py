# SPDX-License-Identifier: Apache-2.0
"""`lightwam compile`: a launch plan and machine code for GPUs into an engine file. No GPU is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from lightwam.gpu import require_triton


@dataclass(frozen=True)
class CompileArgs:
    """Add a launch plan and machine code for GPUs to an engine file."""

    engine: Positional[Path]
    """Engine file (*.lwam); what it holds for GPUs already is left out."""
    out: Positional[Path]
    """The engine file to write; may be the same."""
    targets: str | None = None
    """GPUs, separated by commas: sm_87 (Orin), sm_89 (RTX 40), sm_90 (H100), sm_110 (Thor), sm_120 (RTX 50); all that
    have the engine's formats when absent (sm_87 has no fp8)."""
    tactics: int = 3
    """Ways of each matmul to compile, among which the runtime may choose."""
    cache: Path | None = None
    """Folder that keeps compiled kernels; ~/.cache/lightwam/kernels when absent."""
    jobs: int | None = None
    """Kernels compiled at a time; as many as cores when absent."""


def main(arguments: CompileArgs) -> int:
    """Compile and print what was made. Raises `ConfigError`, `EngineError`, `ExportError`."""
    require_triton("compiling for GPUs")
    from lightwam.gpu.compile import CompileOptions, compile_engine, parse_targets

    targets = None if arguments.targets is None else parse_targets(arguments.targets)
    options = CompileOptions(targets, arguments.tactics, arguments.cache, arguments.jobs)
    made = compile_engine(arguments.engine, arguments.out, options, show_progress=True)
    print("\n".join(made.summary()))
    return 0
