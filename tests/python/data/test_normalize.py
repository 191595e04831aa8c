# SPDX-License-Identifier: Apache-2.0
"""Normaliser: the published implementation's numbers for every mode, the statistics file, and its errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from lightwam.data.normalize import DatasetStatistics, Normalizer, Statistics
from lightwam.errors import ConfigError, DataError

GOLDEN = json.loads((Path(__file__).parents[2] / "data/golden/golden_normalizer.json").read_text())
MODES = ("min/max", "q01/q99", "z-score", "-1/1", "0/2")


def golden_statistics() -> Statistics:
    return Statistics(**{name: np.asarray(value, np.float32) for name, value in GOLDEN["stats"].items()})


@pytest.mark.parametrize("mode", MODES)
def test_modes_match_the_published_numbers(mode: str) -> None:
    normalizer, wanted = Normalizer.from_statistics(mode, golden_statistics()), GOLDEN[mode]
    x = np.asarray(GOLDEN["x"], np.float32)
    np.testing.assert_allclose(normalizer.scale, wanted["scale"], rtol=1e-6)
    np.testing.assert_allclose(normalizer.offset, wanted["offset"], rtol=1e-5, atol=1e-6)
    forward = normalizer.forward(x)
    np.testing.assert_allclose(forward, wanted["forward"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(normalizer.backward(forward), wanted["backward_of_forward"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["minmax", "1/2/3", "a/b"])
def test_unknown_mode(mode: str) -> None:
    with pytest.raises(ConfigError, match="normalisation mode is"):
        Normalizer.from_statistics(mode, golden_statistics())


def test_statistics_measure_quantiles_and_population_deviation() -> None:
    rows = np.arange(101, dtype=np.float32)[:, None]
    measured = Statistics.measure(rows)
    assert (measured.q01[0], measured.q99[0]) == (1.0, 99.0)
    assert measured.std[0] == pytest.approx(np.arange(101).std())


def _dataset_statistics() -> DatasetStatistics:
    rng = np.random.default_rng(0)
    state, action = Statistics.measure(rng.normal(size=(50, 8))), Statistics.measure(rng.normal(size=(50, 7)))
    return DatasetStatistics(state, action, Statistics.measure(rng.normal(size=(50, 1, 8))),
                             Statistics.measure(rng.normal(size=(50, 16, 7))), 3, 50)  # fmt: skip


def test_statistics_file_round_trip(tmp_path: Path) -> None:
    saved = _dataset_statistics()
    saved.save(tmp_path / "stats.json")
    document = json.loads((tmp_path / "stats.json").read_text())
    assert set(document) == {"state", "action", "num_episodes", "num_transition"}
    assert {"global_min", "stepwise_q99"} <= set(document["action"]["default"])
    loaded = DatasetStatistics.load(tmp_path / "stats.json")
    np.testing.assert_array_equal(loaded.stepwise_action.q99, saved.stepwise_action.q99)
    assert loaded.num_transition == 50


def test_statistics_file_errors(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    with pytest.raises(DataError, match="missing"):
        DatasetStatistics.load(path)
    path.write_text("{")
    with pytest.raises(DataError, match="unreadable"):
        DatasetStatistics.load(path)
    document = _dataset_statistics().to_dict()
    del document["action"]["default"]["global_q01"]
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="global_q01"):
        DatasetStatistics.load(path)
    document = _dataset_statistics().to_dict()
    document["state"]["default"]["global_std"] = [float("nan")] * 8
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="infinite"):
        DatasetStatistics.load(path)
    path.write_text(json.dumps({**_dataset_statistics().to_dict(), "num_episodes": "many"}))
    with pytest.raises(DataError, match="many"):
        DatasetStatistics.load(path)
