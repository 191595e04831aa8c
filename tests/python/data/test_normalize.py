# SPDX-License-Identifier: Apache-2.0
"""Normaliser: the published implementation's numbers for every mode, the statistics file, and its errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from lightwam.data.normalize import Normalizer, measure, read_statistics
from lightwam.errors import ConfigError, DataError

GOLDEN = json.loads((Path(__file__).parents[2] / "data/golden/golden_normalizer.json").read_text())
MODES = ("min/max", "q01/q99", "z-score", "-1/1", "0/2")


def golden(mode: str) -> Normalizer:
    document = {"state": {"default": {f"global_{name}": value for name, value in GOLDEN["stats"].items()}}}
    return Normalizer.from_statistics(document, "state", mode, len(GOLDEN["stats"]["min"]))


@pytest.mark.parametrize("mode", MODES)
def test_modes_match_the_published_numbers(mode: str) -> None:
    normalizer, wanted = golden(mode), GOLDEN[mode]
    x = np.asarray(GOLDEN["x"], np.float32)
    np.testing.assert_allclose(normalizer.scale, wanted["scale"], rtol=1e-6)
    np.testing.assert_allclose(normalizer.offset, wanted["offset"], rtol=1e-5, atol=1e-6)
    forward = normalizer.forward(x)
    np.testing.assert_allclose(forward, wanted["forward"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(normalizer.backward(forward), wanted["backward_of_forward"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["minmax", "1/2/3", "a/b"])
def test_unknown_mode(mode: str) -> None:
    with pytest.raises(ConfigError, match="normalisation mode is"):
        golden(mode)


def test_statistics_measure_quantiles_and_population_deviation() -> None:
    rows = np.arange(101, dtype=np.float32)[:, None]
    measured = measure(rows, "global")
    assert (measured["global_q01"], measured["global_q99"]) == ([1.0], [99.0])
    assert measured["global_std"][0] == pytest.approx(np.arange(101).std())


def test_masked_rows_are_refused() -> None:
    with pytest.raises(DataError, match="statistics of global: the rows are a masked array"):
        measure(np.ma.masked_array(np.ones((3, 2)), np.eye(3, 2)), "global")


def test_statistics_file_errors(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    with pytest.raises(DataError, match="missing"):
        read_statistics(path)
    path.write_text("{")
    with pytest.raises(DataError, match="unreadable"):
        read_statistics(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="a list"):
        read_statistics(path)


def test_statistics_that_a_mode_needs() -> None:
    document = {"state": {"default": measure(np.random.default_rng(0).normal(size=(50, 8)), "global")}}
    with pytest.raises(DataError, match=r"action\.default"):
        Normalizer.from_statistics(document, "action", "min/max", 7)
    del document["state"]["default"]["global_q01"]
    with pytest.raises(DataError, match="global_q01"):
        Normalizer.from_statistics(document, "state", "q01/q99", 8)
    document["state"]["default"]["global_std"] = [float("nan")] * 8
    with pytest.raises(DataError, match="finite"):
        Normalizer.from_statistics(document, "state", "z-score", 8)
    assert Normalizer.from_statistics(document, "state", "min/max", 8).scale.shape == (8,)
