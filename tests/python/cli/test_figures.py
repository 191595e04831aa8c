# SPDX-License-Identifier: Apache-2.0
"""The schema of speed figures, and `lightwam bench` end to end: numbers of threads, start-up, memory, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lightwam import cli
from lightwam.bench.figures import Record, Seconds, write_figures


def record(**more: object) -> Record:
    seconds = Seconds.of([0.4, 0.1, 0.2, 0.3])
    return Record("chunk", "nano", "lightwam-f32", "f32", 2, seconds, **more)  # type: ignore[arg-type]


def read_figures(path: Path) -> list[Record]:
    records = json.loads(path.read_text())["records"]
    for entry in records:
        del entry["share_of_peak"]
    return [Record(**{**entry, "seconds": Seconds(**entry["seconds"])}) for entry in records]


def test_percentiles_are_numpys() -> None:
    samples = np.random.default_rng(0).exponential(size=101)
    seconds = Seconds.of(samples.tolist())
    assert (seconds.p50, seconds.p95, seconds.p99) == pytest.approx(np.percentile(samples, (50, 95, 99)))
    assert seconds.minimum == samples.min() and seconds.runs == 101


def test_share_of_peak_is_flops_a_second_over_the_peak() -> None:
    assert record(flops=1e9, peak_flops=8e9).share_of_peak == pytest.approx(1e9 / 0.25 / 8e9)
    assert record(flops=1e9).share_of_peak is None
    assert record(peak_flops=8e9).share_of_peak is None


def test_a_file_keeps_every_field(tmp_path: Path) -> None:
    made = record(stages={"vae": 0.1}, flops=2.0, peak_memory_bytes=7, cosine=0.5)
    write_figures([made], tmp_path / "figures.json", engine="x")
    assert read_figures(tmp_path / "figures.json") == [made]
    assert json.loads((tmp_path / "figures.json").read_text())["engine"] == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_bench_measures_each_number_of_threads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["bench", "--runs", "3", "--warmup", "1", "--threads", "1", "2", "--out", str(tmp_path)]
    assert cli.main(options) == 0
    records = read_figures(tmp_path / "bench.json")
    assert [made.threads for made in records] == [1, 2]
    for made in records:
        assert made.seconds.runs == 3 and made.contender == "lightwam-f32"
        assert made.stages is not None and {"vae", "backbone", "expert"} <= set(made.stages)
        assert made.load_seconds is not None and made.first_chunk_seconds is not None
        assert 0 < made.load_seconds < made.first_chunk_seconds
        assert made.peak_memory_bytes is None or made.peak_memory_bytes > 18_000_000  # at least the weights
    assert (tmp_path / "bench.png").stat().st_size > 1000
    assert "peak memory" in capfd.readouterr().out


def test_bench_says_what_ran_where_auto_chose(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The bundled engine has no machine code for a GPU, so it is the CPU, whatever the machine."""
    assert cli.main(["bench", "--device", "auto", "--runs", "1", "--warmup", "1", "--out", str(tmp_path)]) == 0
    (made,) = read_figures(tmp_path / "bench.json")
    assert made.contender == "lightwam-f32" and made.threads >= 1
    assert "has no machine code for a GPU" in capfd.readouterr().out


def test_bench_refuses_no_threads(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--threads", "0"]) == 2
    assert "--threads (0,)" in capsys.readouterr().err
