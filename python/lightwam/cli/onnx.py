# SPDX-License-Identifier: Apache-2.0
"""`lightwam onnx`: an engine file as ONNX models, for other runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightwam.engine.file import check_checksums, read_engine
from lightwam.engine.verify import check_graph
from lightwam.onnx.export import write_onnx
from lightwam.progress import progress_bar


@dataclass(frozen=True)
class OnnxArgs:
    """Write an engine as ONNX models: the action pass, and what runs once an instruction; the weights beside them."""

    engine: Path
    """Engine file (*.lwam) in f32, bf16 or f16."""
    out: Path
    """The model of the action pass to write (*.onnx)."""
    text_rows: int | None = None
    """Fix the number of an instruction's context rows: faster models, for instructions of that length only."""


def main(arguments: OnnxArgs) -> int:
    """Check the engine, write the models and print one line. Raises `EngineError`, `ExportError`."""
    graph = read_engine(arguments.engine)
    check_graph(graph)
    total = graph.constant_bytes()
    with progress_bar("checking", total, show=True) as advance:
        check_checksums(arguments.engine, advance)
    with progress_bar("writing", total, show=True) as advance:
        files = write_onnx(graph, arguments.out, arguments.text_rows, advance)
    print(f"{files.act}, {files.instruction.name}, {files.weights.name}: {files.num_bytes / 1e6:.1f} MB of weights")
    return 0
