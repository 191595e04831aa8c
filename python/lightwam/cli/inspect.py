# SPDX-License-Identifier: Apache-2.0
"""`lightwam inspect`: what an engine file holds, and what a chunk costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightwam.cli.parse import Positional
from lightwam.engine.costs import GraphCosts, counted_text_rows, graph_costs
from lightwam.engine.file import read_engine, read_gpu_document
from lightwam.engine.graph import EIGHT_BIT_FORMATS, Graph
from lightwam.engine.ops import EIGHT_BIT_MATMULS
from lightwam.engine.verify import check_graph
from lightwam.errors import ConfigError, EngineError
from lightwam.terminal import table

#: The savings of the full-size policy were counted once, from the unfolded model.
SAVINGS_TABLE = "docs/reference/export.md"


@dataclass(frozen=True)
class InspectArgs:
    """Show what an engine file holds."""

    file: Positional[Path]
    """Engine file (*.lwam)."""
    ops: bool = False
    """List every op of a chunk with its FLOPs and bytes."""
    savings: bool = False
    """Name the page that says what each exact saving is worth."""
    text_rows: int | None = None
    """Rows of the instruction for the counts; those of the longest known one when absent, 32 where none is known."""
    json: bool = False
    """Print the stored graph document instead."""


def summary(graph: Graph, costs: GraphCosts, text_rows: int, file_bytes: int, targets: Sequence[str] = ()) -> str:
    """Name, inputs, outputs, sizes, targets with machine code, parity and provenance."""
    policy, provenance = graph.policy, graph.provenance
    known = [entry["text"] for entry in policy["instructions"]]
    encoder = policy["text_encoder"]
    start = f"images on a {policy['canvas']} canvas" if policy["starts_at"] == "images" else "latents"
    parity = provenance.get("parity")
    facts = {
        "name": graph.name,
        "precision": _precision(graph),
        "file": f"{file_bytes / 1e6:.1f} MB, {len(graph.constants)} tensors",
        "machine code": ", ".join(targets) or "none for GPUs: lightwam compile adds it",
        "starts at": start,
        "cameras": ", ".join(map(_camera, policy["cameras"])) or "none",
        "state, action": f"{policy['state_width']}, {policy['horizon']} x {policy['action_width']}, "
        f"replan after {policy['replan']}",
        "state": _dimensions(policy.get("state")),
        "action": _dimensions(policy.get("action")),
        "control rate": f"{policy.get('control_hz', '?')} Hz",
        "gripper": policy.get("gripper") or ("as in the data" if policy.get("normalizer") else "no rule: normalised"),
        "instructions": f"{len(known)} known" + (f", any through {encoder['kind']}" if encoder else "")
        + (f": {'; '.join(known[:3])}" if known else "")
        + (f"; {len(encoder['words'])} words seen in training" if encoder and encoder.get("words") else ""),
        "memory": f"arena {graph.programs['act'].arena_bytes / 1e6:.1f} MB, "
        f"instruction cache {graph.instruction_bytes / 1e6:.2f} MB",
        "one chunk": f"{costs.flops / 1e9:.3f} GFLOP ({text_rows} text rows), "
        f"{costs.constant_bytes / 1e6:.1f} MB of weights, {len(costs.ops)} ops",
        "parity": "not measured" if not parity else f"relative error {parity['relative_error']:.2g}, "
        f"cosine {parity['cosine']:.7f} (limit: {parity['limit']})",
        "made by": f"lightwam {provenance.get('lightwam', '?')}, torch {provenance.get('torch', '?')}",
    }  # fmt: skip
    return "\n".join(f"{key:14s} {value}" for key, value in facts.items())


def _camera(camera: Mapping[str, Any]) -> str:
    """Name, height x width on the canvas, and whether the engine turns the live robot's frames."""
    turned = " (turned by 180 degrees)" if camera["rotate_180"] else ""
    return f"{camera['name']} {camera['rect'][2]}x{camera['rect'][3]}{turned}"


def _dimensions(dimensions: Sequence[Mapping[str, Any]] | None) -> str:
    """Name, unit and range in training of each number."""
    if not dimensions:
        return "not described"
    texts = []
    for each in dimensions:
        unit = "" if each["unit"] == "1" else f" {each['unit']}"
        limits = "" if each["range"] is None else f" {each['range'][0]:.4g} to {each['range'][1]:.4g}"
        texts.append(f"{each['name']}{limits}{unit}")
    return ", ".join(texts)


def _precision(graph: Graph) -> str:
    """The engine's precision; of an eight-bit one how many linears have it, and how the chunk agreed with the float."""
    if graph.precision not in EIGHT_BIT_FORMATS:
        return graph.precision
    linears = [op for op in graph.programs["act"].ops if op.op in EIGHT_BIT_MATMULS]
    eight = sum("x_scale" in op.inputs for op in linears)
    measured = graph.provenance.get("quantization")
    agreed = "not measured"
    if measured:
        agreed = f"{measured['chunk']['cosine_min']:.6f} at least, on {measured['chunk']['observations']} observations"
    return f"{graph.precision} in {eight} of {len(linears)} linears; cosine to the float engine: {agreed}"


def stage_table(costs: GraphCosts) -> str:
    """GFLOP, megabytes moved and ops of every stage."""
    rows = []
    for stage, flops in costs.by_stage().items():
        ops = [op for op in costs.ops if op.stage == stage]
        rows.append((stage, f"{flops / 1e9:.3f}", f"{sum(op.num_bytes for op in ops) / 1e6:.1f}", str(len(ops))))
    return table(("stage", "GFLOP", "MB", "ops"), rows)


def op_table(costs: GraphCosts) -> str:
    """Every op of a chunk, in order."""
    rows = ((op.name, op.op, op.stage, f"{op.flops / 1e6:.3f}", f"{op.num_bytes / 1e6:.3f}") for op in costs.ops)
    return table(("name", "op", "stage", "MFLOP", "MB"), rows)


def main(arguments: InspectArgs) -> int:
    """Print the report. Raises `EngineError` on a file that is no engine, `ConfigError` on a negative row count."""
    if arguments.text_rows is not None and arguments.text_rows < 0:
        raise ConfigError(f"--text-rows is {arguments.text_rows}: use at least 0")
    graph = read_engine(arguments.file)
    if arguments.json:
        from lightwam.engine.graph import graph_to_json

        print(json.dumps(graph_to_json(graph), indent=1))
        return 0
    check_graph(graph)
    text_rows = counted_text_rows(graph) if arguments.text_rows is None else arguments.text_rows
    costs = graph_costs(graph, text_rows)
    targets = (read_gpu_document(arguments.file) or {}).get("images", ())
    try:
        text = summary(graph, costs, text_rows, arguments.file.stat().st_size, tuple(targets))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise EngineError(
            f"{arguments.file}: its policy or provenance lacks or mistypes {error}: export it again"
        ) from error
    print(text)
    print(f"\n{stage_table(costs)}")
    if arguments.ops:
        print(f"\n{op_table(costs)}")
    if arguments.savings:
        print(f"\nWhat each exact saving is worth: {SAVINGS_TABLE}")
    return 0
