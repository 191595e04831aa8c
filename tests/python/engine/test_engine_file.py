# SPDX-License-Identifier: Apache-2.0
"""Engine files: what is written is read back, bit for bit, and a failed export leaves nothing behind."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

import lightwam.errors
from helpers.golden import random_model, tiny_config
from lightwam.engine.file import check_engine_output, read_engine, write_engine
from lightwam.engine.graph import Graph, graph_to_json
from lightwam.errors import EngineError, ExportError
from lightwam.export.options import ExportOptions
from lightwam.export.policy_graph import build_graph
from lightwam.export.weights import StateDictWeights
from lightwam.kernels.formats import bfloat16_bits, bfloat16_values


def _graph(precision: str = "bf16") -> Graph:
    config = tiny_config()
    options = ExportOptions(precision=precision, start_at="latents", latent_shape=(16, 8, 8), context_rows=4)  # type: ignore[arg-type]
    return build_graph(config, StateDictWeights(random_model(config).state_dict()), options)


@pytest.mark.parametrize("precision", ["f32", "bf16", "f16"])
def test_round_trip_keeps_graph_and_numbers(tmp_path: Path, precision: str) -> None:
    graph = replace(_graph(precision), provenance={"why": 'test "quotes", ünïcode'})
    size = write_engine(graph, tmp_path / "a.lwam")
    back = read_engine(tmp_path / "a.lwam")
    assert size == (tmp_path / "a.lwam").stat().st_size
    assert graph_to_json(back) == json.loads(json.dumps(graph_to_json(graph)))
    assert back.programs == graph.programs
    assert set(back.constants) == set(graph.constants)
    for name, constant in graph.constants.items():
        np.testing.assert_array_equal(back.constants[name].array(), constant.array())


def test_file_is_plain_safetensors_with_aligned_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.lwam"
    write_engine(_graph(), path)
    with safe_open(path, "pt") as file:
        assert "lightwam" in file.metadata()
        assert file.get_tensor("blocks.0.ffn.0.weight").dtype == torch.bfloat16
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        entries = json.loads(stream.read(length))
    assert (8 + length) % 64 == 0
    sizes = {"F32": 4, "BF16": 2}
    offsets = [(e["data_offsets"], sizes[e["dtype"]]) for name, e in entries.items() if name != "__metadata__"]
    assert all(begin % size == 0 for (begin, _), size in offsets)
    assert sorted(begin for (begin, _), _ in offsets)[1:] == sorted(end for (_, end), _ in offsets)[:-1]


def test_exports_of_the_same_weights_are_identical(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_engine(_graph(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.lwam"
    path.write_bytes(b"old")
    graph = _graph()
    name, constant = next(iter(graph.constants.items()))
    broken = replace(constant, load=lambda: np.zeros((1, 1), np.float32))
    with pytest.raises(ExportError, match="do not fit the configuration"):
        write_engine(replace(graph, constants={**graph.constants, name: broken}), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def _with_infinity(graph: Graph) -> Graph:
    name, constant = next(item for item in graph.constants.items() if item[1].type.dtype == "bf16")
    numbers = np.full(constant.type.shape, 0x7F80, np.uint16)  # infinity's bits
    return replace(graph, constants={**graph.constants, name: replace(constant, load=lambda: numbers)})


@pytest.mark.parametrize(
    "change, told",
    [
        (_with_infinity, "holds NaN or infinity"),
        (lambda graph: replace(graph, name="bad\udcff"), "surrogate"),
        (lambda graph: replace(graph, provenance={"long": "x" * (17 << 20)}), "header length"),
        (lambda graph: replace(graph, policy={**graph.policy, "replan": 0}), "replan"),
    ],
)
def test_what_the_runtime_would_refuse_is_not_written(
    tmp_path: Path, change: Callable[[Graph], Graph], told: str
) -> None:
    path = tmp_path / "a.lwam"
    write_engine(_graph(), path)
    before = path.read_bytes()
    with pytest.raises(ExportError, match=rf"would refuse what was made, .*a\.lwam.*{told}") as refusal:
        write_engine(change(_graph()), path, read_back=True)
    assert ".part" not in str(refusal.value) and "\n" not in str(refusal.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_without_the_extension_the_reader_here_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightwam.runtime", None)
    write_engine(_graph(), tmp_path / "a.lwam", read_back=True)
    numbers = iter(range(10_000))
    monkeypatch.setattr("lightwam.engine.file.zlib.crc32", lambda data: next(numbers))  # no checksum is right
    with pytest.raises(ExportError, match=r"nothing was written: .*checksum"):
        write_engine(_graph(), tmp_path / "b.lwam", read_back=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.lwam"]


def test_an_output_that_is_no_engine_is_refused(tmp_path: Path) -> None:
    write_engine(_graph(), tmp_path / "a.lwam")
    (tmp_path / "empty.lwam").touch()
    (tmp_path / "weights.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    for name in ("a.lwam", "empty.lwam", "new/b.lwam"):
        check_engine_output(tmp_path / name)
    for name, inputs in (("weights.safetensors", ()), (".", ()), ("a.lwam", (tmp_path / "a.lwam",))):
        with pytest.raises(ExportError, match="give another --out"):
            check_engine_output(tmp_path / name, inputs)


@pytest.mark.parametrize("length", [0, 5, 8, 100, 5000])
def test_truncated_file_is_one_clear_error(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.lwam"
    write_engine(_graph(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(EngineError, match=r"a\.lwam"):
        read_engine(path)


def test_a_document_without_bottom_is_one_clear_error(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"lightwam": "[" * 100_000}}).encode()
    path = tmp_path / "a.lwam"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(EngineError, match=r"a\.lwam: not an engine file") as refusal:
        read_engine(path)
    assert "\n" not in str(refusal.value)


def test_other_version_and_missing_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.lwam"
    write_engine(_graph(), path)
    path.write_bytes(path.read_bytes().replace(b'\\"format_version\\":1', b'\\"format_version\\":2'))
    with pytest.raises(EngineError, match="export the policy again"):
        read_engine(path)
    with pytest.raises(EngineError, match="give the path of an engine file"):
        read_engine(tmp_path / "absent.lwam")


@given(hnp.arrays(np.float32, 16, elements=st.floats(width=32)))
def test_bf16_rounds_like_torch(values: np.ndarray) -> None:  # type: ignore[type-arg]
    made = bfloat16_values(bfloat16_bits(values))
    np.testing.assert_array_equal(made, torch.tensor(values).to(torch.bfloat16).float().numpy())


def test_reading_and_counting_need_no_torch(tmp_path: Path) -> None:
    write_engine(_graph(), tmp_path / "a.lwam")
    code = (
        "import sys; from lightwam.engine.file import read_engine; from lightwam.engine.costs import graph_costs; "
        "import lightwam.cli.inspect; "
        f"print(graph_costs(read_engine({str(tmp_path / 'a.lwam')!r})).flops); assert 'torch' not in sys.modules"
    )
    package = Path(lightwam.errors.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(package)},
    )
    assert int(done.stdout) > 0
