# SPDX-License-Identifier: Apache-2.0
"""Engines with linears of 8 bits: the numbers, what is said about them, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers import runtime_reference
from helpers.engine_files import TASK, Engine, as_float, observation, quantised, small_engine, write_engine
from helpers.hostile_files import Spoil, both, refused, role, tensor, value
from lightwam.errors import EngineError, PrecisionError
from lightwam.runtime import Policy, _engine


def int8_engine() -> Engine:
    return quantised(small_engine(images=False))


def relative_error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("threads", [1, 2])
def test_actions_are_those_of_the_reference(tmp_path: Path, threads: int) -> None:
    engine = int8_engine()
    policy = Policy(write_engine(tmp_path / "e.lwam", engine), threads=threads)
    policy.set_instruction(TASK)
    for seed in range(4):
        seen = observation(images=False, seed=seed)
        expected = runtime_reference.actions(engine, seen, TASK)
        # A step may flip where a quotient lies within f32 rounding of a half; with these seeds none does.
        assert relative_error(policy.infer(seen).actions, expected) < 1e-5
        exact = runtime_reference.actions(small_engine(images=False), seen, TASK)
        assert 1e-5 < relative_error(expected, exact) < 0.05


def test_every_instruction_set_computes_the_same_sums(tmp_path: Path) -> None:
    engine = int8_engine()
    path = os.fsencode(write_engine(tmp_path / "e.lwam", engine))
    seen = observation(images=False)
    expected = runtime_reference.actions(engine, seen, TASK)
    for level in ("portable", _engine.Policy(path, "cpu", 1, "auto").instruction_set):
        policy = _engine.Policy(path, "cpu", 1, "int8", level)
        policy.set_instruction(TASK)
        actions, seconds = np.empty((4, 3), np.float32), np.empty(7)
        policy.infer({}, seen["latents"], seen["state"], actions, seconds)
        assert relative_error(actions, expected) < 1e-5


def test_precision_by_name(tmp_path: Path) -> None:
    int8 = write_engine(tmp_path / "int8.lwam", int8_engine())
    f32 = write_engine(tmp_path / "f32.lwam", small_engine())
    for precision in ("int8", "auto"):
        policy = Policy(int8, precision=precision)
        assert "int8 products" in policy.execution_info and policy.metadata["precision"] == "int8"
    for precision in ("f32", "bf16"):
        with pytest.raises(PrecisionError, match=f"computes in int8; export it again with --precision {precision}"):
            Policy(int8, precision=precision)
    with pytest.raises(PrecisionError, match="computes in f32; make one with 'lightwam quantize --format int8'"):
        Policy(f32, precision="int8")


def test_products_that_are_widened_are_said_aloud(tmp_path: Path) -> None:
    engine = int8_engine()
    int8 = os.fsencode(write_engine(tmp_path / "int8.lwam", engine))
    warning = _engine.Policy(int8, "cpu", 1, "auto", "portable").warning
    assert "widens its int8 products" in warning and "bf16" not in warning
    engine.value("canvas")["dtype"] = "bf16"
    weight = (as_float(engine.tensors["conv.weight"]).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    engine.tensors["conv.weight"] = weight
    mixed = os.fsencode(write_engine(tmp_path / "mixed.lwam", engine))
    warning = _engine.Policy(mixed, "cpu", 1, "auto", "portable").warning
    assert "widens its int8 products" in warning and "widens its bf16 products" in warning and "\n" not in warning


def test_overflowing_activations_give_an_error_and_no_action(tmp_path: Path) -> None:
    engine = int8_engine()
    policy = Policy(write_engine(tmp_path / "e.lwam", engine), threads=1)
    policy.set_instruction(TASK)
    seen = observation(images=False)
    seen["state"][:2] = 3e38, -3e38  # finite, but their range is not
    with pytest.raises(EngineError, match="computed the action"):
        policy.infer(seen)
    policy.infer(observation(images=False))


def with_entry(index: tuple[int, ...], entry: float) -> Any:
    def change(tensor: NDArray[Any]) -> NDArray[Any]:
        tensor[index] = entry
        return tensor

    return change


def long_rows(engine: Engine) -> None:
    """Rows of one number more than the sums of 32 bits have room for."""
    entry = {"name": "long", "dtype": "i8", "shape": [32, 66312], "storage": "arena"}
    engine.act["values"].append(entry | {"offset": engine.act["arena_bytes"]})
    engine.act["arena_bytes"] += 32 * 66312
    engine.op("query")["inputs"]["x"] = "long"


def twice_quantised(engine: Engine, name: str) -> None:
    """The rows of `query` quantised by a second op, `other`, of which the linear reads one output."""
    first = engine.op("normed in 8 bits")
    parts = {"x": "y", "x_scale": "scale", "x_zero": "zero"}
    for part in parts.values():
        entry = engine.value(f"normed.{part}") | {"name": f"other.{part}", "offset": engine.act["arena_bytes"]}
        engine.act["values"].append(entry)
        engine.act["arena_bytes"] += (int(np.prod(entry["shape"])) * 4 + 63) // 64 * 64
    other = first | {"name": "other", "outputs": {part: f"other.{part}" for part in parts.values()}}
    engine.act["ops"].insert(engine.act["ops"].index(first), other)
    engine.op("query")["inputs"][name] = f"other.{parts[name]}"


DOCUMENTS: list[tuple[str, Spoil, str]] = [
    ("-128", tensor("query.weight", with_entry((7, 7), -128)), "'query.weight' holds -128"),
    ("scale zero", tensor("query.weight.scale", with_entry((3,), 0.0)), "holds a scale that is not positive"),
    ("scale negative", tensor("query.weight.scale", with_entry((7,), -1.0)), "holds a scale that is not positive"),
    ("scale NaN", tensor("query.weight.scale", with_entry((7,), np.nan)), "holds NaN"),
    ("scale infinite", tensor("query.weight.scale", with_entry((0,), np.inf)), "holds NaN or infinity"),
    ("scale shape", tensor("query.weight.scale", lambda t: t[:7]), r"'weight_scale' has shape \[7\]; expected \[8\]"),
    ("scale bf16", tensor("query.weight.scale", lambda t: t.view(np.uint16)[::2]), "'weight_scale' is bf16"),
    ("weight shape", tensor("query.weight", lambda t: t[:, :7]), r"\[8, 7\]; expected \[8, 8\]"),
    ("weight rank", tensor("query.weight", lambda t: t[..., None]), "expected 2 dimensions"),
    ("weight f32", tensor("query.weight", lambda t: t.astype(np.float32)), "'weight' is f32; expected i8"),
    ("no weight", role("query", "constants", weight=...), "constant 'weight' is missing"),
    ("no x_scale", role("query", "inputs", x_scale=...), "input 'x_scale' is missing"),
    ("no x_zero", role("query", "inputs", x_zero=...), "input 'x_zero' is missing"),
    ("no weight_scale", role("query", "constants", weight_scale=...), "constant 'weight_scale' is missing"),
    ("x f32", role("query", "inputs", x="normed"), "'weight' is i8; expected f32, bf16 or f16"),
    ("x_scale i32", role("query", "inputs", x_scale="normed.zero"), "'x_scale' is i32; expected f32"),
    ("x_zero f32", role("query", "inputs", x_zero="normed.scale"), "'x_zero' is f32; expected i32"),
    ("x_scale of other rows", role("query", "inputs", x_scale="state.scale"), r"\[1\]; expected \[32\]"),
    ("x_zero of other rows", role("query", "inputs", x_zero="state.zero"), r"\[1\]; expected \[32\]"),
    ("scales of a float linear", role("action", "inputs", x_scale="state.scale"), "'x_scale' is not one of this op"),
    (
        "x_scale of another op",
        lambda engine: twice_quantised(engine, "x_scale"),
        "'x_scale' is 'other.scale', 'scale' of",
    ),
    (
        "x_zero of another op",
        lambda engine: twice_quantised(engine, "x_zero"),
        "'x_zero' is 'other.zero', 'zero' of op",
    ),
    ("x of another op", lambda engine: twice_quantised(engine, "x"), "of op 'other', which writes 'x'"),
    ("y not i8", value("normed.y", dtype="f32"), "output 'y' is f32; expected i8 or f8"),
    ("y i8 elsewhere", value("query", dtype="i8"), "output 'y' is i8; expected f32, bf16 or f16"),
    ("y shape", value("normed.y", shape=[32, 7]), r"\[32, 7\]; expected \[32, 8\]"),
    ("scale bf16 value", value("normed.scale", dtype="bf16"), "output 'scale' is bf16; expected f32"),
    ("zero i8", value("normed.zero", dtype="i8"), "output 'zero' is i8; expected i32"),
    ("rows", both(value("normed.scale", shape=[31])), r"\[31\]; expected \[32\]"),
    ("too long", long_rows, "sums 66312 products of 8 bits; expected at most 66311"),
    ("i8 in a convolution", tensor("conv.weight", lambda t: t.astype(np.int8)), "is i8; expected f32, bf16 or f16"),
    ("i8 as a norm's weight", tensor("norm.weight", lambda t: t.astype(np.int8)), "is i8; expected f32"),
    ("i8 context", tensor("instruction.0", lambda t: t.astype(np.int8)), "is i8; expected f32 or bf16"),
]


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in DOCUMENTS], ids=[case[0] for case in DOCUMENTS])
def test_refusals(tmp_path: Path, spoil: Spoil, message: str) -> None:
    engine = int8_engine()
    spoil(engine)
    refused(write_engine(tmp_path / "bad.lwam", engine), message)
