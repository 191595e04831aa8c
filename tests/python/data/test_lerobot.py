# SPDX-License-Identifier: Apache-2.0
"""Reading LeRobot v3.0 and v2.1: rows, frames, and one clear error for each kind of bad data set."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.dataset_fixture import CAMERAS, LENGTHS, TASK, write_v3, write_v21
from lightwam.config import LightWAMConfig
from lightwam.data.caches import FrameCache
from lightwam.data.lerobot import open_dataset, read_frames
from lightwam.errors import DataError


@pytest.fixture(scope="module", params=[write_v3, write_v21], ids=["v3.0", "v2.1"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    write: Callable[[Path], Path] = request.param
    return write(tmp_path_factory.mktemp("data") / "set")


def test_rows_and_episodes(root: Path) -> None:
    dataset = open_dataset(root)
    assert dataset.state.shape == (sum(LENGTHS), 8)
    assert dataset.action.shape == (sum(LENGTHS), 4 if "lightwam" in (root / "meta/info.json").read_text() else 1, 7)
    assert [episode.length for episode in dataset.episodes] == list(LENGTHS)
    assert all(episode.task == TASK for episode in dataset.episodes)
    assert dataset.cameras == CAMERAS
    dataset.check(CAMERAS, 8, 7)


def test_frames_belong_to_their_rows(root: Path, tmp_path: Path) -> None:
    dataset = open_dataset(root)
    last = dataset.episodes[-1]
    (images,) = read_frames([last.videos["wrist"]])
    np.testing.assert_allclose(images.mean((1, 2, 3)), 20 + 20 * np.arange(last.length), atol=4)
    cache = FrameCache(dataset, LightWAMConfig.nano().cameras, tmp_path)
    assert cache.build() == len(LENGTHS)
    assert cache.build() == 0
    for episode in dataset.episodes:
        np.testing.assert_allclose(cache.load(episode).mean((1, 2, 3)), 20 + 20 * np.arange(episode.length), atol=4)


def test_cache_resumes_and_refuses_a_damaged_file(root: Path, tmp_path: Path) -> None:
    dataset = open_dataset(root)
    cache = FrameCache(dataset, LightWAMConfig.nano().cameras, tmp_path)
    cache.build()
    cache.path(dataset.episodes[1]).unlink()
    assert cache.build() == 1
    np.save(cache.path(dataset.episodes[0]), np.zeros(3))
    with pytest.raises(DataError, match="delete it and build again"):
        cache.load(dataset.episodes[0])


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        open_dataset(tmp_path / "nowhere")


def test_wrong_cameras_and_widths(root: Path) -> None:
    dataset = open_dataset(root)
    with pytest.raises(DataError, match=r"without \['head'\]"):
        dataset.check(("agentview", "head"), 8, 7)
    with pytest.raises(DataError, match="state width 8"):
        dataset.check(CAMERAS, 14, 7)
    with pytest.raises(DataError, match="action width 7"):
        dataset.check(CAMERAS, 8, 14)


def _edit_info(root: Path, **changes: object) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_damage_is_reported(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    _edit_info(copy, codebase_version="v1.6")
    with pytest.raises(DataError, match=r"only LeRobot v3\.0, v2\.1 and v2\.0"):
        open_dataset(copy)
    (copy / "meta/info.json").write_text("no json")
    with pytest.raises(DataError, match="unreadable"):
        open_dataset(copy)

    copy = shutil.copytree(root, tmp_path / "empty")
    for path in copy.glob("data/chunk-000/*.parquet"):
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(DataError, match=r"empty|damaged"):
        open_dataset(copy)
    shutil.rmtree(copy / "data")
    with pytest.raises(DataError):
        open_dataset(copy)

    copy = shutil.copytree(root, tmp_path / "video")
    for path in copy.glob("videos/**/*.mp4"):
        path.write_bytes(path.read_bytes()[:200])
    spans = [open_dataset(copy).episodes[0].videos["wrist"]]
    with pytest.raises(DataError, match=r"video .* is missing or damaged"):
        list(read_frames(spans))


def test_nan_is_refused(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    path = next(copy.glob("data/chunk-000/*.parquet"))
    table = pq.read_table(path)
    rows = table["observation.state"].to_pylist()
    rows[0][3] = float("nan")
    place = table.column_names.index("observation.state")
    pq.write_table(table.set_column(place, "observation.state", [rows]), path)
    with pytest.raises(DataError, match="NaN"):
        open_dataset(copy)


@pytest.mark.parametrize(
    "changes",
    [{"fps": None}, {"fps": "five"}, {"video_path": "videos/{unknown}.mp4"}, {"features": {"observation.images.x": 3}},
     {"lightwam.action_substeps": "x"}, {"chunks_size": 0, "lightwam.action_substeps": 0}],
    ids=str,
)  # fmt: skip
def test_unfit_metadata_is_one_data_error(root: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    _edit_info(copy, **changes)
    with pytest.raises(DataError, match="copy") as caught:
        open_dataset(copy)
    assert "\n" not in str(caught.value)


def test_rows_without_a_known_task_are_refused(root: Path, tmp_path: Path) -> None:
    for name, edit in {
        "unnumbered": lambda table: table.drop(["task_index"]),
        "unknown": lambda table: table.drop(["task_index"]).append_column("task_index", [[99] * table.num_rows]),
    }.items():
        copy = shutil.copytree(root, tmp_path / name)
        for path in copy.glob("data/chunk-000/*.parquet"):
            pq.write_table(edit(pq.read_table(path)), path)
        with pytest.raises(DataError, match="task"):
            open_dataset(copy)


def test_episodes_before_the_first_row_are_refused(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    (path,) = (root / "meta/episodes").glob("*/*.parquet")
    table = pq.read_table(path)
    place = table.column_names.index("dataset_from_index")
    pq.write_table(table.set_column(place, "dataset_from_index", [[-5] * table.num_rows]), path)
    with pytest.raises(DataError, match=r"claims rows -5"):
        open_dataset(root)
