# SPDX-License-Identifier: Apache-2.0
"""Observations to quantise with, and `lightwam quantize` from recordings to the printed report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.dataset_fixture import CAMERAS, TASK, write_v3, write_v21
from helpers.robots import with_robot
from lightwam.cli import export as command
from lightwam.cli import main
from lightwam.cli.export import ExportArgs
from lightwam.cli.quantize import QuantizeArgs
from lightwam.cli.quantize import main as quantize
from lightwam.config import LightWAMConfig
from lightwam.engine.file import read_engine
from lightwam.engine.graph import Graph
from lightwam.errors import ConfigError, DataError, ExportError
from lightwam.quantize.calibration import Observation, random_observations, recorded_observations, turned_as_live

LENGTHS = (6, 4, 9, 5, 7)


def _ignore(_: int) -> None:
    pass


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "nano.lwam"
    command.main(ExportArgs(out=path, random="nano"))
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_v3(tmp_path_factory.mktemp("data") / "recorded", lengths=LENGTHS)


def test_recorded_observations_are_the_rows_they_claim(engine: Path, recordings: Path) -> None:
    """Brightness tells the frame within its episode; the state tells the row."""
    from lightwam.data.lerobot import open_dataset

    dataset, heard = open_dataset(recordings), []
    found = recorded_observations(read_engine(engine), recordings, 10, 3, 0, heard.append)
    assert len(found.calibration) == 10 and len(found.held_out) == 3 and len(heard) == 13 * len(CAMERAS)
    episodes: dict[str, set[int]] = {"calibration": set(), "held_out": set()}
    rows = []
    for part in episodes:
        for seen in getattr(found, part):
            (row,) = np.flatnonzero((dataset.state == seen.state).all(1))
            episode = next(e for e in dataset.episodes if e.start <= row < e.stop)
            episodes[part].add(episode.index)
            rows.append(int(row))
            assert seen.instruction == TASK and set(seen.images) == set(CAMERAS)
            for image in seen.images.values():
                assert abs(image.astype(int) - (20 + 20 * (row - episode.start))).max() < 8
    assert len(set(rows)) == 13
    assert len(episodes["calibration"]) == 4 and not episodes["calibration"] & episodes["held_out"]
    assert "5 recorded episodes of recorded" in found.source


def test_recorded_images_are_turned_as_the_live_robots(engine: Path) -> None:
    """The engine turns what it is given by the live orientation, so recordings that lie otherwise are turned first."""
    graph = read_engine(engine)
    config = LightWAMConfig.from_dict(graph.provenance["config"])
    first, second = config.cameras.cameras
    turned = with_robot(config, cameras=(replace(first, on_robot="upright"), second))
    other = replace(graph, provenance={**graph.provenance, "config": turned.to_dict()})
    images = {name: np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8) for name in CAMERAS}
    seen = Observation("go", np.zeros(8, np.float32), images)
    for known, step in ((graph, 1), (other, -1), (replace(graph, provenance={}), 1)):
        (live,) = turned_as_live(known, [seen])
        np.testing.assert_array_equal(live.images[first.name], images[first.name][::step, ::step])
        np.testing.assert_array_equal(live.images[second.name], images[second.name])


def test_version_2_recordings_are_read_too(engine: Path, tmp_path: Path) -> None:
    found = recorded_observations(read_engine(engine), write_v21(tmp_path / "old"), 3, 2, 1, _ignore)
    assert [len(found.calibration), len(found.held_out)] == [3, 2]


def _fitting(graph: Graph, **policy: object) -> Graph:
    return replace(graph, policy={**graph.policy, **policy})


def test_recordings_that_do_not_fit_are_one_line_naming_both_sides(
    engine: Path, recordings: Path, tmp_path: Path
) -> None:
    graph = read_engine(engine)
    cameras = [{**graph.policy["cameras"][0], "name": "overhead"}, graph.policy["cameras"][1]]
    known = [{"text": "open the drawer", "context": "c"}]
    for unfit, match in (
        (_fitting(graph, cameras=cameras), r"cameras \['overhead', 'wrist'\], data set .* \['agentview', 'wrist'\]"),
        (_fitting(graph, state_width=14), r"state width 14, data set .* has 8"),
        (_fitting(graph, starts_at="latents"), r"starts at latents, data set .* use random observations"),
        (_fitting(graph, text_encoder=None, instructions=known), r"\['open the drawer'\], data set .*alphabet soup"),
    ):
        with pytest.raises(DataError, match=match) as caught:
            recorded_observations(unfit, recordings, 2, 2, 0, _ignore)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="rows: request at most as many, not 100"):
        recorded_observations(graph, recordings, 100, 2, 0, _ignore)
    with pytest.raises(DataError, match="has one episode"):
        recorded_observations(graph, write_v3(tmp_path / "one", lengths=(4,)), 2, 2, 0, _ignore)


def test_random_observations_follow_from_the_seed(engine: Path) -> None:
    graph = read_engine(engine)
    units = {"state_scale": [2.0] * 8, "state_offset": [3.0] * 8}
    first, again, other = (random_observations(graph, 2, 3, seed) for seed in (0, 0, 1))
    assert "random" in first.source and len(first.calibration) == 2 and len(first.held_out) == 3
    for one, two in zip(first.held_out, again.held_out, strict=True):
        np.testing.assert_array_equal(one.state, two.state)
        np.testing.assert_array_equal(one.images["wrist"], two.images["wrist"])
    assert (first.held_out[0].state != other.held_out[0].state).any()
    scaled = random_observations(_fitting(graph, normalizer=units), 2, 3, 0)
    np.testing.assert_allclose(scaled.held_out[0].state * 2 + 3, first.held_out[0].state, rtol=1e-5, atol=1e-5)


def test_command_from_recordings(
    engine: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "q.lwam"
    words = [str(engine), "--calibration", str(recordings), "--out", str(out), "--held-out", "3"]
    more = ["--layer-observations", "2", "--threads", "1", "--keep-float", "expert.trunk.*"]
    assert main(["quantize", *words, *more]) == 0
    shown = capsys.readouterr().out
    for part in (
        "65 of 67 layers in int8",
        "float: asked for: expert.trunk.0.fc1, expert.trunk.0.fc2",
        "3 held-out observations (runtime, beside f32)",
        "q.report.json",
    ):
        assert part in shown
    assert read_engine(out).precision == "int8"
    assert main(["inspect", str(out)]) == 0
    assert "int8 in 65 of 79 linears" in capsys.readouterr().out


def test_command_says_no_and_writes_nothing(engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = QuantizeArgs(
        engine, tmp_path / "q.lwam", random_observations=1, layer_observations=1, runner="interpreter", layer_gate=1e-9
    )
    assert quantize(arguments) == 1
    assert "gates not met, nothing written" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_bad_options_are_one_line(engine: Path, tmp_path: Path) -> None:
    good = QuantizeArgs(engine, tmp_path / "q.lwam", random_observations=1)
    for change, match in (
        ({"random_observations": None}, "exactly one"),
        ({"calibration": tmp_path}, "exactly one"),
        ({"random_observations": 0}, "--random-observations is 0"),
        ({"layer_observations": 0}, "--layer-observations is 0"),
        ({"held_out": -1}, "--held-out is -1"),
        ({"seed": -1}, "--seed is -1"),
        ({"layer_gate": 0.0}, "--layer-gate is 0"),
        ({"chunk_gate": float("nan")}, "--chunk-gate is nan"),
        ({"out": engine}, "which is or holds the input"),
        ({"reference": tmp_path / "q.lwam"}, "which is or holds the input"),
    ):
        with pytest.raises((ConfigError, ExportError), match=match):
            quantize(replace(good, **change))


def test_random_int8_engine_is_reproducible(tmp_path: Path) -> None:
    for name in ("a", "b"):
        command.main(ExportArgs(out=tmp_path / name, random="nano", precision="int8", seed=3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    graph = read_engine(tmp_path / "a")
    assert graph.precision == "int8" and graph.constants["blocks.0.ffn.0.weight"].type.dtype == "i8"
    assert graph.constants["text_embedding.0.weight"].type.dtype == "bf16"
