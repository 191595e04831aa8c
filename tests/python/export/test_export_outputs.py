# SPDX-License-Identifier: Apache-2.0
"""Outputs of `export`, `quantize`, `onnx` and `bench`: refused before the work where they are something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.golden import random_model, tiny_config
from lightwam.assets import bundled_engine
from lightwam.cli import main
from lightwam.engine.file import read_engine, write_engine
from lightwam.errors import ExportError
from lightwam.export.exporter import export_engine

PHOTO = b"\x89PNG\r\n\x1a\n" + bytes(9)
VERBS: dict[str, Callable[[Path], list[str]]] = {
    "export": lambda out: ["--random", "nano", "--out", str(out)],
    "quantize": lambda out: [str(bundled_engine()), "--out", str(out), "--random-observations", "1"],
    "compile": lambda out: [str(bundled_engine()), str(out)],
    "onnx": lambda out: ["--engine", str(bundled_engine()), "--out", str(out)],
    "bench": lambda out: ["--runs", "1", "--out", str(out.parent)],
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_not_ours_is_not_replaced(tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = {"onnx": "photo.onnx", "bench": "bench.png"}.get(verb, "photo.lwam")
    (tmp_path / name).write_bytes(PHOTO)
    assert main([verb, *VERBS[verb](tmp_path / name)]) == 2
    told = capsys.readouterr().err
    assert f"{name} is not a" in told and "a PNG image: nothing is replaced" in told
    assert (tmp_path / name).read_bytes() == PHOTO and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("verb", ["export", "quantize", "compile", "onnx"])
def test_folders_and_devices_are_refused_before_the_work(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.onnx").mkdir()
    assert main([verb, *VERBS[verb](tmp_path / "a.onnx")]) == 2
    assert "an empty folder: nothing is replaced" in capsys.readouterr().err
    if verb != "onnx":
        assert main([verb, *VERBS[verb](Path("/dev/null"))]) == 2
        assert "not an ordinary file" in capsys.readouterr().err
    assert Path("/dev/null").is_char_device() and list((tmp_path / "a.onnx").iterdir()) == []


def test_a_report_of_someone_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "q.report.json").write_text('{"grade": 1}')
    assert main(["quantize", *VERBS["quantize"](tmp_path / "q.lwam")]) == 2
    assert "q.report.json is not a report of lightwam" in capsys.readouterr().err
    assert json.loads((tmp_path / "q.report.json").read_text()) == {"grade": 1}


def test_an_engine_is_replaced_through_a_link(tmp_path: Path) -> None:
    graph = read_engine(bundled_engine())
    write_engine(graph, tmp_path / "real.lwam")
    (tmp_path / "link.lwam").symlink_to("real.lwam")
    write_engine(replace(graph, name="other"), tmp_path / "link.lwam")
    assert (tmp_path / "link.lwam").is_symlink() and read_engine(tmp_path / "real.lwam").name == "other"


def test_without_parity_seeds_nothing_unusable_is_written(tmp_path: Path) -> None:
    """Finite weights whose folded product overflows: the parity check would see it, the runtime's reader does too."""
    model = random_model(tiny_config())
    with torch.no_grad():
        model.get_parameter("mot.mixtures.video.blocks.0.self_attn.q.weight").fill_(3e38)
    rows = torch.ones(2, model.config.text.width)
    options = {"start_at": "latents", "latent_shape": (16, 8, 8), "context_rows": 4, "instructions": {"go": rows}}
    with pytest.raises(ExportError, match=r"would refuse what was made, .*NaN or infinity"):
        export_engine(model, tmp_path / "a.lwam", parity_seeds=(), **options)
    assert list(tmp_path.iterdir()) == []
