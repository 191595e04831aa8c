# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from helpers.engine_files import Engine, engine_bytes, small_engine
from lightwam.errors import EngineError
from lightwam.runtime import _engine


def test_a_good_file_gives_its_document(engine_path: Path) -> None:
    document = json.loads(_engine.verify(os.fsencode(engine_path)))
    assert document["name"] == "small" and document["precision"] == "f32"
    act = document["programs"]["act"]
    assert act["arena_bytes"] == small_engine().act["arena_bytes"]
    counts = Counter((op["stage"], op["op"]) for op in act["ops"])
    assert counts["preprocess", "preprocess_images"] == 1 and counts["expert", "linear"] == 2


def test_a_bad_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.lwam"
    path.write_bytes(b"nothing")
    with pytest.raises(EngineError, match="7 bytes long"):
        _engine.verify(os.fsencode(path))


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("small_images.lwam", small_engine()),
        ("small_latents.lwam", small_engine(images=False, text_encoder=False)),
    ],
)
def test_the_files_of_the_cpp_tests_are_those_of_the_writer(name: str, engine: Engine) -> None:
    """Re-make them with `python tests/python/runtime/engine_files.py tests/data/engines`."""
    path = Path(__file__).parents[2] / "data" / "engines" / name
    assert path.read_bytes() == engine_bytes(engine)
