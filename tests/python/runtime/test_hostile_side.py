# SPDX-License-Identifier: Apache-2.0
"""Side branches that say something impossible, or race with what runs beside them, are refused on every device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.engine_files import Engine, write_engine
from helpers.gpu_side_plan import side_gpu_engine
from helpers.hostile_files import Spoil, document, refused
from lightwam.runtime import Policy

ACT, TEXT = "gpu.programs.act", "gpu.programs.set_instruction"
SIDE = f"{ACT}.side"
BESIDE = "has bytes that the side stream writes, which runs beside it"


def offset(name: str, value: int) -> Spoil:
    """A buffer of `act` somewhere else."""

    def spoil(engine: Engine) -> None:
        buffers: list[dict[str, Any]] = engine.document["gpu"]["programs"]["act"]["buffers"]
        next(entry for entry in buffers if entry["name"] == name)["offset"] = value

    return spoil


BRANCHES: list[tuple[str, Spoil, str]] = [
    ("no object", document(SIDE, [2, 4]), "'side' is a list; expected an object"),
    ("null", document(SIDE, None), "'side' is null; expected an object"),
    ("extra key", document(f"{SIDE}.first", 0), "side stream: key 'first' is unknown"),
    ("no join", document(SIDE, {"launches": 2}), "'join' is missing"),
    ("no launch", document(f"{SIDE}.launches", 0), "'launches' is 0; expected 1 to 7"),
    ("half a launch", document(f"{SIDE}.launches", 1.5), "'launches' is a number; expected an integer"),
    ("past the end", document(f"{SIDE}.join", 8), "'join' is 8; expected 1 to 7"),
    ("nothing beside", document(f"{SIDE}.join", 2), "side stream of 2 launches: 'join' is 2; expected more"),
    ("joined too late", document(f"{SIDE}.join", 5), f"launch 'add': argument 'b' {BESIDE}"),
    ("parted too early", document(f"{SIDE}.launches", 1), f"launch 'double': argument 'x' {BESIDE}"),
    ("over what it writes", offset("seen", 0), f"launch 'look': argument 'y' {BESIDE}"),
    ("over what it needs no more", offset("mixed", 0), f"launch 'mix': argument 'y' {BESIDE}"),
    ("text joined too late", document(f"{TEXT}.side.join", 3), f"launch 'merge': argument 'a' {BESIDE}"),
]


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in BRANCHES], ids=[case[0] for case in BRANCHES])
def test_impossible_branches_are_refused(tmp_path: Path, spoil: Spoil, message: str) -> None:
    engine = side_gpu_engine()
    spoil(engine)
    refused(write_engine(tmp_path / "bad.lwam", engine), message)


def test_a_branch_may_be_joined_at_the_end(tmp_path: Path) -> None:
    engine = side_gpu_engine()
    text = engine.document["gpu"]["programs"]["set_instruction"]
    text["launches"].append(text["launches"].pop(0))  # encode, merge of itself, and beside it encode
    text["launches"][1]["arguments"] = [["b", 3, 0], ["b", 3, 0], ["b", 4, 0]]
    text["launches"] = text["launches"][-1:] + text["launches"][:-1]
    text["side"] = {"launches": 1, "join": 3}
    Policy(write_engine(tmp_path / "good.lwam", engine), threads=1)
