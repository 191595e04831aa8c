# SPDX-License-Identifier: Apache-2.0
"""Do two engines answer alike? Whole action chunks of both, observation by observation.

Compared is the normalised chunk, before it is turned into robot units and before the gripper's sign rule: there every
action weighs the same, and a gripper score near its threshold is a small difference, not one of 2. The final chunk's
figures are reported beside it. Symbols: H horizon, A action width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightwam.engine.dtypes import Array
from lightwam.engine.file import read_engine
from lightwam.engine.graph import Graph, Op, Program, TensorType, Value
from lightwam.engine.inputs import Observation
from lightwam.engine.memory_plan import plan_graph
from lightwam.errors import ExportError

#: What runs an engine: the C++ runtime, or the (slow) interpreter in float32.
Runner = Literal["runtime", "interpreter"]
_AFTER_THE_CHUNK = ("gripper_rule", "scale_shift_clamp")
_PROBE = "probe"


@dataclass(frozen=True)
class Agreement:
    """How alike two engines answer. Cosines of flattened chunks, least and mean over observations.

    `relative_error` is RMS over all normalised actions; `motion_*` leaves the gripper's column out, if there is one;
    `final_*` is in robot units, behind the sign rule; `gripper_flips` counts the steps whose sign differs, and
    `flip_score_change` is the largest change of their normalised scores: none lay further from the threshold.
    """

    observations: int
    cosine_min: float
    cosine_mean: float
    relative_error: float
    motion_cosine_min: float
    motion_cosine_mean: float
    final_cosine_min: float
    final_cosine_mean: float
    gripper_flips: int
    gripper_steps: int
    flip_score_change: float

    def to_json(self) -> dict[str, Any]:
        """Seven digits of each."""
        return {name: round(value, 7) if isinstance(value, float) else value for name, value in vars(self).items()}


def chunk_value(graph: Graph) -> str:
    """Name of the value that holds the normalised chunk: what the last matmul makes."""
    act = graph.programs["act"]
    writers = {name: op for op in act.ops for name in op.outputs.values()}
    name = act.outputs["actions"]
    while writers[name].op in _AFTER_THE_CHUNK:
        name = writers[name].inputs["x"]
    return name


def gripper_column(graph: Graph) -> int | None:
    """The column that the sign rule acts on."""
    return next((op.count("column") for op in graph.programs["act"].ops if op.op == "gripper_rule"), None)


def probe_graph(graph: Graph) -> Graph:
    """The graph with actions [H, 2 A]: the normalised chunk, then the final one. For measuring, never for a robot."""
    act = graph.programs["act"]
    final = act.outputs["actions"]
    horizon, width = act.values[final].type.shape
    probe = Value(_PROBE, TensorType("f32", (horizon, 2 * width)))
    op = Op("concat", _PROBE, "postprocess", {"x.0": chunk_value(graph), "x.1": final}, {}, {"y": _PROBE}, {})
    program = Program({**act.values, _PROBE: probe}, (*act.ops, op), {"actions": _PROBE})
    described = ("state", "action")  # whose ranges would be compared with random states
    policy = {key: value for key, value in graph.policy.items() if key not in described}
    policy |= {"action_width": 2 * width, "normalizer": None, "gripper": None}
    return plan_graph(replace(graph, policy=policy, programs={**graph.programs, "act": program}))


def run_probe(
    path: Path,
    observations: Sequence[Observation],
    runner: Runner,
    threads: int | None,
    on_chunk: Callable[[int], None] = lambda _: None,
) -> Array:
    """Actions float64 [observations, H, 2 A] of a probe's file; `on_chunk` is called with 1 after each chunk."""
    infer = _runtime(path, threads) if runner == "runtime" else _interpreter(path)
    chunks = []
    for observation in observations:
        chunks.append(np.asarray(infer(observation), np.float64))
        on_chunk(1)
    return np.stack(chunks)


def _runtime(path: Path, threads: int | None) -> Callable[[Observation], Array]:
    from lightwam.runtime import Policy

    policy = Policy(path, threads=threads)

    def infer(observation: Observation) -> Array:
        if policy.instruction != observation.instruction:
            policy.set_instruction(observation.instruction)
        return policy.infer(observation.inputs()).actions

    return infer


def _interpreter(path: Path) -> Callable[[Observation], Array]:
    import torch

    from lightwam.engine.interpret import Interpreter

    return Interpreter(read_engine(path), torch.float32).infer


def agreement(made: Array, expected: Array, gripper: int | None) -> Agreement:
    """Compare probe actions [observations, H, 2 A]. Raises `ExportError` on numbers that are not finite."""
    if not (np.isfinite(made).all() and np.isfinite(expected).all()):
        raise ExportError("an engine computes actions that are not finite: export the policy again")
    width = expected.shape[2] // 2
    motions = [column for column in range(width) if column != gripper]
    chunk, final = (
        _cosines(made[..., :width], expected[..., :width]),
        _cosines(made[..., width:], expected[..., width:]),
    )
    motion = _cosines(made[..., motions], expected[..., motions])
    difference = made[..., :width] - expected[..., :width]
    flips, steps, change = 0, 0, 0.0
    if gripper is not None:
        flipped = made[..., width + gripper] != expected[..., width + gripper]
        flips, steps = int(flipped.sum()), int(flipped.size)
        change = float(np.abs(difference[..., gripper][flipped]).max(initial=0.0))
    return Agreement(
        len(expected),
        float(chunk.min()), float(chunk.mean()),
        float(np.sqrt(np.square(difference).sum() / max(np.square(expected[..., :width]).sum(), 1e-300))),
        float(motion.min()), float(motion.mean()),
        float(final.min()), float(final.mean()),
        flips, steps, change,
    )  # fmt: skip


def _cosines(made: Array, expected: Array) -> Array:
    """Cosine of each observation's chunk; 1 where both are zero."""
    a, b = made.reshape(len(made), -1), expected.reshape(len(expected), -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = (a == b).all(axis=1)
    return np.asarray(np.where(same, 1.0, (a * b).sum(axis=1) / np.maximum(norms, 1e-300)))
