# SPDX-License-Identifier: Apache-2.0
"""Whole policies on the stand-in driver, beside the CPU's backend and the graph in float64 without rounding.

For a process that loads the stand-in: `measure`, whose figures the test then judges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.standin import NEWEST_FIRST, Compiled, Launch, Standin, interpreted
from lightwam.engine.file import read_engine
from lightwam.engine.graph import Graph
from lightwam.engine.interpret import Interpreter, instruction_context
from lightwam.runtime import Policy

Array = NDArray[Any]
SENTENCES = ("pick up the alphabet soup and place it in the basket", "open the drawer")
DEVICES = ("cpu", "cuda")
PUBLISHED = "published.npz"
SURE = 0.02  # a gripper closer than this to its threshold may be either way


@dataclass
class Figures:
    """What `measure` found. Errors are relative to the largest number of the chunk that they are measured from."""

    errors: dict[str, float] = field(default_factory=dict)  # device: root mean square from the oracle's chunks
    largest_errors: dict[str, float] = field(default_factory=dict)  # device: the largest from the oracle's chunks
    published_errors: list[float] = field(default_factory=list)  # of the GPU from the published chunks, the largest
    published_cosines: list[float] = field(default_factory=list)
    wrong_grippers: int = 0  # of the GPU, where the oracle is sure
    integrated_equals: bool = True  # the same bits on a GPU that shares the CPU's memory, side streams last
    instructions_differ: float = 1.0  # two instructions' chunks of one observation
    launches: int = 0
    misuse: str = ""
    leaked: int = 0


def observations(graph: Graph, count: int, published: Mapping[str, Array]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Instruction and observation: the published ones, then random ones; the instruction changes every time."""
    policy, rng = graph.policy, np.random.default_rng(7)
    texts = [known["text"] for known in policy["instructions"]]
    texts += [sentence for sentence in SENTENCES if policy["text_encoder"] is not None and sentence not in texts]
    for index in range(count):
        seen: dict[str, Any] = {"state": rng.uniform(-1, 1, policy["state_width"]).astype(np.float32)}
        if policy["starts_at"] == "images":
            size = (96 + 40 * index, 128, 3)  # frames grow: the graph of launches is recorded anew
            seen["images"] = {camera["name"]: rng.integers(0, 256, size, np.uint8) for camera in policy["cameras"]}
        else:
            seen["latents"] = rng.standard_normal(policy["latent_shape"]).astype(np.float32)
        if index < len(published.get("state", ())):
            seen = {name: published[name][index] for name in ("latents", "state")}
        yield texts[index % len(texts)], seen


class Oracle:
    """The graph in float64. It rounds no value to bf16 or f16, so every backend's own roundings count as its errors."""

    def __init__(self, graph: Graph) -> None:
        rules = [op for op in graph.programs["act"].ops if op.op == "gripper_rule"]
        self._before_rule = rules[0].inputs["x"] if rules else None
        self.gripper = int(rules[0].attrs["column"]) if rules else None  # type: ignore[arg-type]
        kept = frozenset({self._before_rule} if self._before_rule else ())
        self._interpreter = Interpreter(graph, kept=kept, rounds=False)

    def chunk(self, text: str, seen: Mapping[str, Any]) -> tuple[Array, Array]:
        """Actions [H, A], and the steps [H] whose gripper is not on the edge."""
        self._interpreter.set_instruction(instruction_context(self._interpreter.graph, text))
        actions = self._interpreter.act(seen["state"], seen.get("latents"), seen.get("images"))
        if self._before_rule is None:
            return actions, np.zeros(len(actions), bool)
        before = np.asarray(self._interpreter.trace[self._before_rule])
        return actions, np.abs(before[:, self.gripper] - 0.5) > SURE


def infer(policy: Policy, text: str, seen: Mapping[str, Any]) -> Array:
    policy.set_instruction(text)
    return policy.infer(dict(seen)).actions.astype(np.float64)


def measure(standin: Standin, engine: Path, compiled: Compiled, plain: Path, count: int, integrated: bool) -> Figures:
    """Both devices and the oracle on `count` observations; if `integrated`, the last again on such a GPU, where what
    may run in any order runs in another one.

    `compiled`: what the machine code of `engine` stands for. `plain`: the engine without; published.npz beside it holds
    published observations, if there are any.
    """
    figures, graph = Figures(), read_engine(plain)
    kernel = interpreted(standin, compiled)

    def counted(launch: Launch) -> None:
        figures.launches += 1
        kernel(launch)

    standin.set_device(87)
    standin.set_kernel(counted)
    published = dict(np.load(plain.parent / PUBLISHED)) if (plain.parent / PUBLISHED).exists() else {}
    seen_in_order = list(observations(graph, count, published))
    _compare(
        figures, graph, engine, seen_in_order, published.get("actions", np.empty(0)), standin if integrated else None
    )
    assert not standin.failures, standin.failures[0]
    figures.misuse, figures.leaked = standin.misuse, standin.leaked
    return figures


def _compare(
    figures: Figures, graph: Graph, engine: Path, seen_in_order: list[tuple[str, dict[str, Any]]], published: Array,
    integrated: Standin | None,
) -> None:  # fmt: skip
    oracle = Oracle(graph)
    policies = {device: Policy(engine, device=device, threads=1) for device in DEVICES}
    squares: dict[str, list[float]] = {device: [] for device in DEVICES}
    largest = dict.fromkeys(DEVICES, 0.0)
    chunks: dict[str, Array] = {}
    for index, (text, seen) in enumerate(seen_in_order):
        chunks = {device: infer(policy, text, seen) for device, policy in policies.items()}
        wanted, sure = oracle.chunk(text, seen)
        if oracle.gripper is not None:
            wrong = chunks["cuda"][:, oracle.gripper] != wanted[:, oracle.gripper]
            figures.wrong_grippers += int((wrong & sure).sum())
        for device, chunk in chunks.items():
            error = _without(chunk - wanted, oracle.gripper) / np.abs(_without(wanted, oracle.gripper)).max()
            squares[device].append(float(np.mean(error**2)))
            largest[device] = max(largest[device], float(np.abs(error).max()))
        if index < len(published):
            made, told = chunks["cuda"].ravel(), published[index].ravel().astype(np.float64)
            figures.published_errors.append(float(np.abs(made - told).max() / np.abs(told).max()))
            figures.published_cosines.append(float(made @ told / np.linalg.norm(made) / np.linalg.norm(told)))
    figures.errors = {device: float(np.sqrt(np.mean(of_all))) for device, of_all in squares.items()}
    figures.largest_errors = largest
    if integrated is not None:
        del policies
        integrated.set_device(87, integrated=True)
        integrated.set_order(NEWEST_FIRST)
        _again(figures, Policy(engine, device="cuda"), seen_in_order, chunks["cuda"])


def _again(figures: Figures, policy: Policy, seen_in_order: list[tuple[str, dict[str, Any]]], chunk: Array) -> None:
    """The last observation with another instruction, then with its own, which must give `chunk`."""
    text, seen = seen_in_order[-1]
    other = infer(policy, seen_in_order[-2][0], seen)
    figures.instructions_differ = float(np.abs(other - chunk).max() / np.abs(chunk).max())
    figures.integrated_equals = np.array_equal(infer(policy, text, seen), chunk)


def _without(chunk: Array, column: int | None) -> Array:
    return chunk if column is None else np.delete(chunk, column, 1)
