# SPDX-License-Identifier: Apache-2.0
"""The factory of hostile engine files: each spoiler changes one thing of a good engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.engine_files import CONTEXT_ROWS, STATE_WIDTH, TASK, TEXT_WIDTH, Engine, observation
from lightwam.errors import EngineError, LightWAMError
from lightwam.runtime import Policy

Spoil = Callable[[Engine], None]


def refused(path: Path, message: str) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        Policy(path, threads=1)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 1000 and path.name in text


def loads_or_is_refused(path: Path) -> None:
    """A change that nobody can see may load; then the policy must also run, or say why not."""
    try:
        policy = Policy(path, threads=1)
        policy.set_instruction(TASK)
        policy.infer(observation())
    except LightWAMError:
        pass


def document(path: str, value: Any) -> Spoil:
    """Sets (or, with `...`, removes) the entry at a dotted path of the document."""

    def spoil(engine: Engine) -> None:
        *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
        target: Any = engine.document
        for key in parents:
            target = target[key]
        if value is ...:
            del target[last]
        else:
            target[last] = value

    return spoil


def op(name: str, /, **fields: Any) -> Spoil:
    return lambda engine: engine.op(name).update(fields)


def attrs(name: str, /, **fields: Any) -> Spoil:
    return lambda engine: engine.op(name)["attrs"].update(fields)


def role(name: str, kind: str, /, **fields: Any) -> Spoil:
    """Sets roles of an op; `...` removes one."""

    def spoil(engine: Engine) -> None:
        for key, value in fields.items():
            if value is ...:
                del engine.op(name)[kind][key]
            else:
                engine.op(name)[kind][key] = value

    return spoil


def value(name: str, program: str = "act", /, **fields: Any) -> Spoil:
    return lambda engine: engine.value(name, program).update(fields)


def tensor(name: str, change: Any) -> Spoil:
    """Replaces a tensor by what `change` makes of it."""

    def spoil(engine: Engine) -> None:
        engine.tensors[name] = change(engine.tensors[name].copy())

    return spoil


def both_values(name: str, /, **fields: Any) -> Spoil:
    def spoil(engine: Engine) -> None:
        engine.value(name, "act").update(fields)
        engine.value(name, "set_instruction").update(fields)

    return spoil


def camera(index: int, /, **fields: Any) -> Spoil:
    return lambda engine: engine.document["policy"]["cameras"][index].update(fields)


def move_op(name: str, to: int) -> Spoil:
    def spoil(engine: Engine) -> None:
        ops = engine.act["ops"]
        found = engine.op(name)
        ops.remove(found)
        ops.insert(to, found)

    return spoil


def add_values(*names: str, shape: list[int]) -> Spoil:
    def spoil(engine: Engine) -> None:
        for name in names:
            offset = engine.act["arena_bytes"]
            entry = {"name": name, "dtype": "f32", "shape": shape, "storage": "arena", "offset": offset}
            engine.act["values"].append(entry)
            engine.act["arena_bytes"] += (int(np.prod(shape)) * 4 + 63) // 64 * 64

    return spoil


def counts_of_rows(engine: Engine) -> None:
    """Zero points i32 [1] of a single row, of `mean` in set_instruction (kept) and of `state` in act: `NAME.zero`."""
    text, act = engine.set_instruction, engine.act
    programs = ((text, "mean", TEXT_WIDTH, "instruction"), (act, "state", STATE_WIDTH, "arena"))
    for program, x, width, storage in programs:
        parts = {"y": ("i8", [1, width], "arena"), "scale": ("f32", [1], "arena"), "zero": ("i32", [1], storage)}
        for part, (dtype, shape, place) in parts.items():
            _append(engine, program, {"name": f"{x}.{part}", "dtype": dtype, "shape": shape, "storage": place})
        outputs = {part: f"{x}.{part}" for part in parts}
        _insert(program, "quantize_rows", f"{x} in 8 bits", {"x": x}, outputs)
    _append(engine, text, {"name": "mean", "dtype": "f32", "shape": [1, TEXT_WIDTH], "storage": "arena"})
    _insert(text, "mean_pool", "mean", {"x": "context"}, {"y": "mean"})
    act["values"].append(engine.value("mean.zero", "set_instruction"))


def bias_of_another_op(engine: Engine) -> None:
    """A value `bias` [L] of act that is no output of text_key_bias, read as the bias of the keys."""
    _append(engine, engine.act, {"name": "bias", "dtype": "f32", "shape": [CONTEXT_ROWS], "storage": "arena"})
    _insert(engine.act, "add", "twice", {"a": "key_bias", "b": "key_bias"}, {"y": "bias"})
    engine.op("attention")["inputs"]["key_bias"] = "bias"


def _append(engine: Engine, program: dict[str, Any], value: dict[str, Any]) -> None:
    owner, size = (program, "arena_bytes") if value["storage"] == "arena" else (engine.document, "instruction_bytes")
    program["values"].append(value | {"offset": owner[size]})
    owner[size] += (int(np.prod(value["shape"])) * 4 + 63) // 64 * 64


def _insert(program: dict[str, Any], kind: str, name: str, inputs: dict[str, str], outputs: dict[str, str]) -> None:
    """As the first op of the program."""
    op = {"op": kind, "name": name, "stage": "text", "inputs": inputs, "constants": {}, "outputs": outputs, "attrs": {}}
    program["ops"].insert(0, op)


def both(*spoils: Spoil) -> Spoil:
    def spoil(engine: Engine) -> None:
        for each in spoils:
            each(engine)

    return spoil
