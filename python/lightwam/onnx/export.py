# SPDX-License-Identifier: Apache-2.0
"""An engine as two ONNX models with one file of weights, for other runtimes (onnx.md)."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
from lightwam.arithmetic import default_arithmetic
from lightwam.engine.graph import Graph
from lightwam.engine.verify import check_usual_forms
from lightwam.errors import ExportError
from lightwam.file_kind import FileKind
from lightwam.files import check_output, replacing_file
from lightwam.onnx.lowering import Lowering
from lightwam.onnx.model import ModelBuilder, WeightFile
from lightwam.onnx.ops import lower

_METADATA_KEY = "lightwam.policy"


@dataclass(frozen=True)
class OnnxFiles:
    """What was written. `num_bytes`: the weights."""

    act: Path
    instruction: Path
    weights: Path
    num_bytes: int


@default_arithmetic
def write_onnx(
    graph: Graph,
    path: str | os.PathLike[str],
    text_rows: int | None = None,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> OnnxFiles:
    """Write an engine's two programs as ONNX models (operator set 23) that compute in float32.

    Args:
        graph: of an f32, bf16 or f16 engine.
        path: the model of `act` (*.onnx). Inputs: `state` f32 [1, P] in robot units; `canvas` f32 [h, w, 3] in -1..1
            (the joined, resized cameras; onnx.md) or `latents` f32 [Z, h, w]; the values that the instruction's
            model returned, under the same names. Output: `actions` f32 [H, A] in robot units.
        text_rows: rows n that every instruction has, 1..L; None: any, with a mask over the L that there may be.
        on_bytes: called with the size of every weight written.

    The instruction's model (`NAME.instruction.onnx`): `context` f32 [L, text width], zero from row `text_rows` (i32
    [1]) on; [n, text width] and no `text_rows` where n is fixed.

    Raises:
        ExportError: an op has no ONNX form or is eight-bit, `text_rows` is out of range.
    """
    length = int(graph.policy["context_rows"])
    if text_rows is not None and not 1 <= text_rows <= length:
        raise ExportError(f"text_rows is {text_rows}: use 1..{length}, the engine's context rows")
    check_usual_forms(graph)
    act_path = Path(path)
    if act_path.suffix != ".onnx":
        raise ExportError(f"out is {act_path}: give a name that ends in .onnx")
    instruction_path = act_path.with_suffix(".instruction.onnx")
    data_path = act_path.with_name(act_path.name + ".data")
    for file in (act_path, instruction_path, data_path):
        check_output(file, "an ONNX model", ExportError, _is_ours)
    weights = WeightFile(data_path.name)
    metadata = {_METADATA_KEY: json.dumps(dict(graph.policy)), "lightwam.name": graph.name}
    models = {
        instruction_path: _instruction_model(graph, weights, text_rows).serialize(metadata),
        act_path: _act_model(graph, weights, text_rows).serialize(metadata),
    }
    act_path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".onnx.", dir=act_path.parent) as folder, contextlib.ExitStack() as stack:
        made = {target: Path(folder) / target.name for target in (act_path, instruction_path, data_path)}
        with made[data_path].open("wb") as stream:
            weights.write(stream, on_bytes)
        for target, serialized in models.items():
            made[target].write_bytes(serialized)
        for target in models:
            _check(made[target], target)
        # The last one entered is renamed first: weights before what refers to them.
        for target, part in [(target, stack.enter_context(replacing_file(target))) for target in made]:
            os.replace(made[target], part)
    return OnnxFiles(act_path, instruction_path, data_path, weights.num_bytes)


def _is_ours(path: Path, _: FileKind) -> bool:
    """Models carry the policy's description; weights are ours where such a model lies beside them."""
    model = path.with_suffix("") if path.suffix == ".data" else path
    return model.is_file() and _METADATA_KEY.encode() in model.read_bytes()


def _check(made: Path, target: Path) -> None:
    """Raise `ExportError` where ONNX's own checker refuses a model with its weights beside it."""
    try:
        onnx.checker.check_model(made)
    except Exception as error:  # protobuf and the checker raise classes of their own
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"{target}: ONNX refuses what was made ({reason}), so nothing was written") from error


def _act_model(graph: Graph, weights: WeightFile, text_rows: int | None) -> ModelBuilder:
    program = graph.programs["act"]
    model = ModelBuilder(f"{graph.name}.act", weights)
    lowering = Lowering(graph, program, model, text_rows)
    for name, value in program.values.items():
        if value.storage == "arena" or name == "key_count":
            continue
        layout = "input" if name == "latents" else "rows"
        lowering.put(name, layout, model.bind(name, lowering.type(name).shape))
    for op in program.ops:
        lower(lowering, op)
    actions = program.outputs["actions"]
    model.output(lowering.rows(actions), "actions", lowering.type(actions).shape)
    return model


def _instruction_model(graph: Graph, weights: WeightFile, text_rows: int | None) -> ModelBuilder:
    program = graph.programs["set_instruction"]
    model = ModelBuilder(f"{graph.name}.instruction", weights)
    lowering = Lowering(graph, program, model, text_rows)
    _bind_context(lowering, text_rows)
    for op in program.ops:
        lower(lowering, op)
    for name, value in program.values.items():
        if value.storage == "instruction" and name in lowering.layouts:
            model.output(lowering.rows(name), name, lowering.type(name).shape)
    return model


def _bind_context(lowering: Lowering, text_rows: int | None) -> None:
    """The rows of an instruction; where their number is fixed, one zero row stands for all the padded ones."""
    model, values = lowering.model, lowering.program.values
    if "text_rows" in values and text_rows is None:
        lowering.put("text_rows", "rows", model.bind("text_rows", (1,), integer=True))
    if "context" not in values:
        return
    length, width = values["context"].type.shape
    context = model.bind("context", (text_rows or length, width))
    if text_rows is not None and text_rows < length:
        padding = [context, model.integers(0, 0, 1, 0)]
        context = model.node("Pad", padding, "context:padded", mode="constant")
    lowering.put("context", "rows", context)
