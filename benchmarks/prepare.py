# SPDX-License-Identifier: Apache-2.0
"""Makes what a comparison runs on, each file once: engines of random weights, their ONNX form, OpenVINO's int8 model.

    python benchmarks/prepare.py STEP SIZE FOLDER THREADS       one step, in a process of its own (memory)

A file that is already in the folder is used as it is.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contenders import INSTRUCTION, Setting, observation

from lightwam.engine.costs import graph_costs
from lightwam.engine.file import read_engine
from lightwam.engine.images import compose_canvas
from lightwam.engine.interpret import instruction_context
from lightwam.onnx.export import write_onnx

CALIBRATION = range(100, 104)  # observations that OpenVINO's int8 model is calibrated on; not those that are measured


@dataclass(frozen=True)
class Step:
    """A file and how it is made."""

    name: str
    made: Path
    command: tuple[str, ...]


def steps_for(setting: Setting, contenders: tuple[str, ...]) -> list[Step]:
    """What the given contenders need, in order."""
    folded = [name for name in contenders if name.startswith(("openvino", "onnxruntime"))]
    unfolded = [name for name in contenders if name.startswith(("eager", "compile"))]
    engines = [name.split("-")[1] for name in contenders if name.startswith("lightwam")]
    if (folded or unfolded) and "f32" not in engines:
        engines.insert(0, "f32")  # instruction, canvas and FLOPs are read from it
    steps = [_engine_step(setting, precision) for precision in engines]
    if folded:
        steps.append(_own_step(setting, "onnx", setting.onnx))
        steps.append(_own_step(setting, "instruction", setting.instruction))
    if folded or unfolded:
        steps.append(_own_step(setting, "inputs", setting.inputs))
    if "openvino-int8" in contenders:
        steps.append(_own_step(setting, "int8", setting.int8_model))
    return steps


def _engine_step(setting: Setting, precision: str) -> Step:
    path = setting.engine(precision)
    options = ("--random", setting.size, "--precision", precision, "--out", str(path))
    return Step(f"engine {precision}", path, (sys.executable, "-m", "lightwam.cli", "export", *options))


def _own_step(setting: Setting, name: str, made: Path) -> Step:
    arguments = (name, setting.size, str(setting.folder), str(setting.threads))
    return Step(name, made, (sys.executable, __file__, *arguments))


def run_step(step: Step, log: Path) -> str | None:
    """Make the file unless it is there. None, or the last line that the failed step printed."""
    if step.made.exists():
        return None
    step.made.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        status = subprocess.run(step.command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    return None if status == 0 and step.made.exists() else f"{step.name}: {last_line(log) or f'exit status {status}'}"


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip("│╭╮╰╯─ ") for line in log.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    return lines[-1][:300] if lines else ""


def _context(setting: Setting) -> Any:
    """Context rows [n, text width] of the instruction that the engine is given."""
    graph = read_engine(setting.engine("f32"))
    known = graph.policy["instructions"]
    return instruction_context(graph, known[0]["text"] if known else INSTRUCTION)


def make_onnx(setting: Setting) -> None:
    """The folded graph for instructions of this length."""
    write_onnx(read_engine(setting.engine("f32")), setting.onnx, text_rows=len(_context(setting)))


def make_inputs(setting: Setting) -> None:
    """Context rows of the instruction, FLOPs of a chunk."""
    context = np.asarray(_context(setting), np.float32)
    costs = graph_costs(read_engine(setting.engine("f32")), len(context))
    temporary = setting.inputs.with_suffix(".tmp.npz")
    np.savez(temporary, context=context, flops=float(costs.flops))
    temporary.replace(setting.inputs)


def make_instruction(setting: Setting) -> None:
    """What the instruction's ONNX model makes of the context rows."""
    values = _instruction_values(setting, np.asarray(_context(setting), np.float32))
    temporary = setting.instruction.with_suffix(".tmp.npz")
    np.savez(temporary, **values)
    temporary.replace(setting.instruction)


def _instruction_values(setting: Setting, context: Any) -> dict[str, Any]:
    """Run NAME.instruction.onnx in whichever runtime is installed."""
    path = setting.onnx.with_suffix(".instruction.onnx")
    try:
        import onnxruntime
    except ModuleNotFoundError:
        import openvino

        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return {port.get_any_name(): value for port, value in compiled({"context": context}).items()}
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"context": context}), strict=True))


def make_int8(setting: Setting) -> None:
    """Post-training quantisation by NNCF: weights a channel, activations a tensor, in products and convolutions."""
    import nncf
    import openvino

    policy = read_engine(setting.engine("f32")).policy
    with np.load(setting.instruction) as values:
        cache = dict(values)
    samples = []
    for index in CALIBRATION:
        seen = observation(setting, index)
        canvas = np.asarray(compose_canvas(seen["images"], policy), np.float32)
        samples.append({**cache, "canvas": canvas, "state": seen["state"][None]})
    quantised = nncf.quantize(
        openvino.Core().read_model(setting.onnx),
        nncf.Dataset(samples),
        subset_size=len(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
    )
    temporary = setting.int8_model.with_name("model.tmp.xml")
    openvino.save_model(quantised, temporary, compress_to_fp16=False)
    temporary.with_suffix(".bin").replace(setting.int8_model.with_suffix(".bin"))
    temporary.replace(setting.int8_model)


if __name__ == "__main__":
    step, size, folder, threads = sys.argv[1:5]
    makers = {"onnx": make_onnx, "instruction": make_instruction, "inputs": make_inputs, "int8": make_int8}
    makers[step](Setting(size, Path(folder), int(threads)))
