# SPDX-License-Identifier: Apache-2.0
"""Engines with linears of 8-bit floats (e4m3): the numbers, what is said about them, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import runtime_reference
from helpers.engine_files import TASK, Engine, observation, quantised, small_engine, write_engine
from helpers.hostile_files import Spoil, refused, role, tensor, value
from lightwam.errors import EngineError, PrecisionError
from lightwam.runtime import Policy, _engine


def fp8_engine() -> Engine:
    return quantised(small_engine(images=False), "f8")


def relative_error(got: Any, expected: Any) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("level", ["portable", "auto"])
def test_actions_are_those_of_the_reference(tmp_path: Path, level: str) -> None:
    """Products of e4m3 are exact in bf16; with these seeds no quotient lies within f32 rounding of a tie."""
    engine = fp8_engine()
    policy = _engine.Policy(os.fsencode(write_engine(tmp_path / "e.lwam", engine)), "cpu", 2, "fp8", level)
    policy.set_instruction(TASK)
    for seed in range(4):
        seen = observation(images=False, seed=seed)
        actions, seconds = np.empty((4, 3), np.float32), np.empty(7)
        policy.infer({}, seen["latents"], seen["state"], actions, seconds)
        expected = runtime_reference.actions(engine, seen, TASK)
        assert relative_error(actions, expected) < 1e-5
        exact = runtime_reference.actions(small_engine(images=False), seen, TASK)
        assert 1e-4 < relative_error(expected, exact) < 0.1


def test_precision_by_name(tmp_path: Path) -> None:
    path = write_engine(tmp_path / "fp8.lwam", fp8_engine())
    policy = Policy(path, precision="fp8")
    assert policy.metadata["precision"] == "fp8"
    assert "fp8 products (as exported), fp8 numbers held as bf16" in policy.execution_info
    with pytest.raises(PrecisionError, match="computes in fp8; make one with 'lightwam quantize --format int8'"):
        Policy(path, precision="int8")


def test_a_state_that_is_not_finite_in_its_products_gives_no_action(tmp_path: Path) -> None:
    policy = Policy(write_engine(tmp_path / "e.lwam", fp8_engine()), threads=1)
    policy.set_instruction(TASK)
    seen = observation(images=False)
    seen["latents"][:] = 3e38
    with pytest.raises(EngineError, match="computed the action"):
        policy.infer(seen)
    policy.infer(observation(images=False))


def with_entry(index: tuple[int, ...], entry: float) -> Any:
    def change(tensor: Any) -> Any:
        tensor[index] = entry
        return tensor

    return change


def other_scale(engine: Engine) -> None:
    """The scales of other rows of the same number, which no `quantize_rows` made."""
    first = engine.value("normed.scale")
    engine.act["values"].append(first | {"name": "other.scale", "offset": engine.act["arena_bytes"]})
    engine.act["arena_bytes"] += 256
    inputs = {"a": "normed.scale", "b": "normed.scale"}
    made = {"op": "add", "name": "other", "stage": "backbone", "inputs": inputs, "constants": {}}
    query = engine.act["ops"].index(engine.op("query"))
    engine.act["ops"].insert(query, made | {"outputs": {"y": "other.scale"}, "attrs": {}})
    engine.op("query")["inputs"]["x_scale"] = "other.scale"


DOCUMENTS: list[tuple[str, Spoil, str]] = [
    ("NaN", tensor("query.weight", with_entry((7, 7), 0x7F)), "'query.weight' holds NaN or infinity"),
    ("negative NaN", tensor("query.weight", with_entry((0, 0), 0xFF)), "'query.weight' holds NaN or infinity"),
    ("scale zero", tensor("query.weight.scale", with_entry((3,), 0.0)), "holds a scale that is not positive"),
    ("i8 weight", tensor("query.weight", lambda t: (t & 63).astype(np.int8)), "'weight' is i8; expected f8"),
    ("f32 weight", tensor("query.weight", lambda t: t.astype(np.float32)), "'weight' is f32; expected f8"),
    ("zero points", role("query", "inputs", x_zero="normed.scale"), "'x_zero' is not one of this op"),
    ("no x_scale", role("query", "inputs", x_scale=...), "input 'x_scale' is missing"),
    ("no weight_scale", role("query", "constants", weight_scale=...), "constant 'weight_scale' is missing"),
    ("x f32", role("query", "inputs", x="normed"), "'weight' is f8; expected f32, bf16 or f16"),
    ("scale of another op", other_scale, "'x_scale' is 'other.scale'"),
    ("y i8 without zero", value("normed.y", dtype="i8"), "output 'zero' is missing"),
    ("y f32", value("normed.y", dtype="f32"), "output 'y' is f32; expected i8 or f8"),
    ("y f8 elsewhere", value("query", dtype="f8"), "output 'y' is f8; expected f32, bf16 or f16"),
    ("f8 context", tensor("instruction.0", lambda t: np.zeros(t.shape, np.uint8)), "is f8; expected f32 or bf16"),
    ("f8 in a convolution", tensor("conv.weight", lambda t: np.zeros(t.shape, np.uint8)), "is f8; expected f32"),
]


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in DOCUMENTS], ids=[case[0] for case in DOCUMENTS])
def test_refusals(tmp_path: Path, spoil: Spoil, message: str) -> None:
    engine = fp8_engine()
    spoil(engine)
    refused(write_engine(tmp_path / "bad.lwam", engine), message)
