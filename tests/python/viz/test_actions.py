# SPDX-License-Identifier: Apache-2.0
"""Predicted beside recorded chunks: the same from an engine and from its checkpoint, with errors of the right steps."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import lightwam
from helpers.viz_set import LENGTHS
from lightwam import cli
from lightwam.config import LightWAMConfig
from lightwam.data.dataset import Dataset, Episode
from lightwam.data.sources import open_datasets
from lightwam.export.options import ExportOptions
from lightwam.export.sources import export_folder
from lightwam.viz.actions import (
    CheckpointChunks,
    EngineChunks,
    EpisodeChunks,
    deviations,
    episode_chunks,
    errors_by_step,
)

WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors"):
            raise ImportError(name + " is out of reach")

sys.meta_path.insert(0, Refuse())
from lightwam import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def engine(seen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "tiny.lwam"
    export_folder(seen / "checkpoint", path, ExportOptions(parity_seeds=()))
    return path


def every_chunk(source: CheckpointChunks | EngineChunks, data: Path) -> list[EpisodeChunks]:
    (dataset,) = open_datasets([data], source.config)
    rows = [range(one.start, one.stop) for one in dataset.episodes]
    return [episode_chunks(source, dataset, one, rows[i], lambda _: None) for i, one in enumerate(dataset.episodes)]


def test_an_engine_and_its_checkpoint_predict_the_same(seen: Path, engine: Path) -> None:
    """The live robot's images lie otherwise than the recorded ones, and its gripper has other numbers."""
    ours = every_chunk(EngineChunks(engine, threads=1), seen / "data")
    theirs = every_chunk(CheckpointChunks(seen / "checkpoint"), seen / "data")
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.predicted_NHA, b.predicted_NHA, atol=2e-3)
        np.testing.assert_array_equal(a.recorded_NHA, b.recorded_NHA)
        assert set(np.unique(a.predicted_NHA[..., -1])) <= {-1.0, 1.0} and a.predicted_NHA[..., 0].std() > 1e-3
    assert [len(one.steps_N) for one in ours] == list(LENGTHS) and ours[1].steps_N.tolist() == [0, 4, 8]


class Off:
    """Predicts the recording with an error of 0.01 (step + 1) in dimension 2, and nonsense past the episode's end."""

    config = LightWAMConfig.nano()

    def chunks(self, dataset: Dataset, episode: Episode, rows: Sequence[int]) -> Iterator[np.ndarray]:
        steps = self.config.robot.to_robot(dataset.action[episode.start : episode.stop].reshape(-1, 7))
        for row in rows:
            made = np.full((16, 7), 1e6)
            rest = steps[4 * (row - episode.start) :][:16]
            made[: len(rest)] = rest
            made[: len(rest), 2] -= 0.01 * (1 + np.arange(len(rest)))
            yield made


def test_errors_by_step_count_what_lies_inside_the_episode(seen: Path) -> None:
    (dataset,) = open_datasets([seen / "data"], Off.config)
    long, short = (episode_chunks(Off(), dataset, one, range(one.start, one.stop), lambda _: None)
                   for one in dataset.episodes)  # fmt: skip
    expected = np.zeros((16, 7))
    expected[:, 2] = 0.01 * (1 + np.arange(16))
    np.testing.assert_allclose(errors_by_step([long, short]), expected, atol=1e-6)
    np.testing.assert_allclose(errors_by_step([short])[:12], expected[:12], atol=1e-6)
    assert np.isnan(errors_by_step([short])[12:]).all()  # 3 rows of 4 steps
    recorded = dataset.action[: LENGTHS[0]].reshape(-1, 7).astype(np.float64)
    recorded[:, 6] = 1 - 2 * recorded[:, 6]  # LIBERO: 1 open, 0 closed become -1 and 1
    np.testing.assert_allclose(long.executed_TA, recorded, atol=1e-6)
    np.testing.assert_allclose(deviations([long]), recorded.std(0), atol=1e-6)


def test_an_engine_needs_no_pytorch(seen: Path, engine: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    words = ["viz", "actions", "--data", str(seen / "data"), "--policy", str(engine), "--out", str(out),
             "--episodes", "0-1", "--threads", "1"]  # fmt: skip
    script = f"import sys; sys.path.insert(0, {str(Path(lightwam.__file__).parents[1])!r})\n{WITHOUT_TORCH}"
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "predicting  100%" in done.stdout and "gripper" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["actions.json", "actions_000000.png", "actions_000001.png"]
    figures = json.loads((out / "actions.json").read_text())
    assert figures["chunks"] == sum(LENGTHS) and len(figures["mean_absolute_error"]["delta_x"]["by_step"]) == 16


def test_a_checkpoint_at_some_rows(seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["viz", "actions", "--data", str(seen / "data"), "--policy", str(seen / "checkpoint")]
    assert cli.main([*words, "--out", str(tmp_path / "out"), "--episodes", "1", "--every", "2"]) == 0
    assert "of 2 chunks" in capsys.readouterr().out
    by_step = json.loads((tmp_path / "out/actions.json").read_text())["mean_absolute_error"]["delta_x"]["by_step"]
    assert by_step[11] is not None and by_step[12:] == [None] * 4
