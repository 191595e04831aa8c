# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from helpers.engine_files import Engine, engine_bytes, small_engine
from lightwam.errors import EngineError
from lightwam.runtime import summarize


def test_figures(engine_path: Path) -> None:
    summary = summarize(engine_path)
    assert summary.name == "small" and summary.precision == "f32"
    assert summary.file_bytes == engine_path.stat().st_size
    assert summary.ops["preprocess", "preprocess_images"] == 1
    assert summary.ops["expert", "linear"] == 2
    assert summary.arena_bytes == small_engine().act["arena_bytes"]


def test_text(engine_path: Path) -> None:
    text = summarize(engine_path).text()
    for part in ("small", "agentview 8x8, wrist 8x8", "1 known, any other through the text encoder", "conv2d 1"):
        assert part in text


def test_a_bad_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.lwam"
    path.write_bytes(b"nothing")
    with pytest.raises(EngineError, match="7 bytes long"):
        summarize(path)


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
