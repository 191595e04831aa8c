# SPDX-License-Identifier: Apache-2.0
"""Rows that contradict the listing are refused; columns and cameras that nobody reads are not looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.lerobot_sets import CAMERAS, Columns, grey, write_frames, write_lines, write_table, write_v2, write_v3
from lightwam.config import LightWAMConfig
from lightwam.data.caches import FrameCache
from lightwam.data.dataset import FrameSpan
from lightwam.data.frames import content_of
from lightwam.data.lerobot import open_dataset, read_frames
from lightwam.data.sources import open_datasets
from lightwam.errors import DataError


def levels(span: FrameSpan) -> list[int]:
    """The grey levels of a span's frames."""
    return [round(float(image.mean())) for image in next(iter(read_frames([span])))]


def seen(root: Path, cameras: tuple[str, ...] = CAMERAS) -> None:
    """Every frame of every episode is the one that its row names."""
    for episode in open_dataset(root).episodes:
        for k, camera in enumerate(cameras):
            wanted = [grey(episode.index, i, k) for i in range(episode.length)]
            np.testing.assert_allclose(levels(episode.videos[camera]), wanted, atol=3)


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_states_and_frames_belong_together(tmp_path: Path, version: str) -> None:
    root = write_v2(tmp_path / "set", version=version)
    data = open_dataset(root)
    for episode in data.episodes:
        np.testing.assert_array_equal(data.state[episode.start : episode.stop, 0] // 100, episode.index)
    seen(root)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libsvtav1", "libx265"])
def test_codecs(tmp_path: Path, codec: str) -> None:
    import av

    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}")
    seen(write_v2(tmp_path / "set", (5, 7), codec=codec))


def test_image_columns(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", images=True)
    assert open_dataset(root).cameras == CAMERAS
    seen(root)


def test_images_beside_the_table(tmp_path: Path) -> None:
    from helpers.lerobot_sets import encoded

    def outside(episode: int, columns: Columns) -> None:
        cells = [{"bytes": None, "path": f"images/{i}.jpg"} for i in range(3)]
        columns["observation.images.wrist"] = pa.array(
            cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        )

    root = write_v2(tmp_path / "set", (3,), images=True, edit=outside)
    (root / "images").mkdir()
    for i in range(3):
        (root / f"images/{i}.jpg").write_bytes(encoded(50 + i, "JPEG"))
    span = open_dataset(root).episodes[0].videos["wrist"]
    assert levels(span) == [50, 51, 52]
    (root / "images/1.jpg").unlink()
    with pytest.raises(DataError, match=r"images/1.jpg .* row 1, is missing"):
        levels(span)


def _first(changed: Callable[[Columns], None]) -> Callable[[int, Columns], None]:
    return lambda episode, columns: changed(columns) if episode == 1 else None


def _set(name: str, row: int, value: float) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        values = columns[name].to_pylist()
        values[row] = value
        columns[name] = pa.array(values, columns[name].type)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("episode_index", 2, 7), "row 2 of episode 1 has episode_index 7 instead of 1"),
        (_set("frame_index", 3, 2), "row 3 of episode 1 has frame_index 2 instead of 3"),
        (_set("timestamp", 2, 0.2), r"row 2 of episode 1 is at 0\.200 s, at 20 rows a second it belongs at 0\.100 s"),
        (_set("task_index", 1, 1), "episode 1 changes from task 0 to 1 at row 1"),
    ],
)
def test_rows_that_contradict_the_listing(tmp_path: Path, change: Callable[[Columns], None], message: str) -> None:
    root = write_v2(tmp_path / "set", edit=_first(change), tasks=("open the drawer", "close the drawer"))
    with pytest.raises(DataError, match=message):
        open_dataset(root)


def test_a_row_more_or_less_than_listed(tmp_path: Path) -> None:
    for rows, name in ((13, "more"), (11, "less")):
        root = write_v2(tmp_path / name, (12, 5))
        path = root / "data/chunk-000/episode_000000.parquet"
        table = pq.read_table(path)
        pq.write_table(pa.concat_tables([table, table])[:rows], path)
        with pytest.raises(DataError, match=rf"episode 0 has {rows} rows in episode_000000\.parquet, .* says 12"):
            open_dataset(root)


def test_dropped_frames_are_no_other_rows_frames(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", (12,))
    path = root / "videos/chunk-000/observation.images.agentview/episode_000000.mp4"
    kept = [0, 1, 2, *range(6, 15)]
    write_frames(path, [grey(0, i) for i in kept], 20, kept)
    with pytest.raises(DataError, match=r"no frame at 0\.150 s .* the next is at 0\.300 s"):
        seen(root)
    write_frames(path, [grey(0, i) for i in range(1, 13)], 20, range(1, 13))  # the first one is missing
    with pytest.raises(DataError, match=r"no frame at 0\.000 s"):
        seen(root)


def test_frames_between_the_rows_do_not_matter(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", (6,))
    path = root / "videos/chunk-000/observation.images.agentview/episode_000000.mp4"
    write_frames(path, [grey(0, i // 2) if i % 2 == 0 else 250 for i in range(12)], 40)
    info = root / "meta/info.json"
    assert json.loads(info.read_text())["fps"] == 20
    assert levels(open_dataset(root).episodes[0].videos["agentview"])[0] == pytest.approx(grey(0, 0), abs=2)


@pytest.mark.parametrize(
    "extra",
    [
        {"observation.effort": pa.array([[np.nan]] * 4)},
        {"contacts": pa.array([[1.0] * (i % 3) for i in range(4)])},
        {"subtasks": pa.array([["a"]] * 4)},
        {"nothing": pa.nulls(4)},
        {"notes": pa.array([{"by": "me"}] * 4)},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_columns_that_nobody_reads(tmp_path: Path, extra: Columns) -> None:
    def add(episode: int, columns: Columns) -> None:
        if episode == 0:  # the second file has another schema
            columns.update(extra)

    data = open_dataset(write_v2(tmp_path / "set", (4, 4), edit=add))
    assert data.state.shape == (8, 8)
    (name,) = extra
    assert name in data.columns
    with pytest.raises(DataError, match=name):
        _ = data.columns[name]


def test_cameras_that_nobody_reads(tmp_path: Path) -> None:
    depth = {"observation.images.depth": {"dtype": "image", "shape": [32, 32, 1]}}
    assert open_dataset(write_v2(tmp_path / "v2", (4,), features=depth)).cameras == CAMERAS
    root = write_v3(tmp_path / "v3", (4, 5), {"agentview": [[0, 1]]})
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.images.depth"] = {"dtype": "video"}
    (root / "meta/info.json").write_text(json.dumps(info))
    assert open_dataset(root).cameras == ("agentview",)


def test_other_columns_follow_the_episodes(tmp_path: Path) -> None:
    def add(episode: int, columns: Columns) -> None:
        columns["effort"] = pa.array([[10.0 * episode + i] for i in range(len(columns["timestamp"]))])

    data = open_dataset(write_v2(tmp_path / "set", (2, 3), edit=add)).take([1, 0])
    np.testing.assert_array_equal(data.columns["effort"][:, 0], [10, 11, 12, 0, 1])
    assert [(e.index, e.start, e.stop) for e in data.episodes] == [(1, 0, 3), (0, 3, 5)]


def test_a_rate_that_is_not_the_robots(tmp_path: Path) -> None:
    config = LightWAMConfig.libero()
    for fps in (5, 10, 50):
        root = write_v2(tmp_path / str(fps), (4,), fps=fps)
        with pytest.raises(DataError, match=rf"come at {fps} Hz, the configuration's robot takes them at 20 Hz"):
            open_datasets([root], config)
        driven = config.with_robot(replace(config.robot, control_hz=float(fps)))
        assert len(open_datasets([root], driven)) == 1
    path = tmp_path / "5/meta/info.json"
    for bad in (0, -1, "20", None):
        path.write_text(json.dumps({**json.loads(path.read_text()), "fps": bad}))
        with pytest.raises(DataError, match="fps"):
            open_dataset(tmp_path / "5")


class TestFilesOfManyEpisodes:
    """v3.0: cameras whose files hold other groups of episodes."""

    LENGTHS = (6, 4, 9, 5, 7, 3)
    GROUPS: ClassVar = {"agentview": [[0, 1, 2, 3, 4, 5]], "wrist": [[0, 1], [2, 3, 4], [5]]}

    def test_every_file_is_decoded_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = write_v3(tmp_path / "set", self.LENGTHS, self.GROUPS)
        seen(root)
        decoded = _count_decoded(monkeypatch)
        cache = FrameCache(open_dataset(root), LightWAMConfig.nano().cameras, tmp_path / "cache")
        assert cache.build() == len(self.LENGTHS)
        assert sum(decoded) == 2 * sum(self.LENGTHS)

    def test_cameras_in_opposite_order_cost_a_key_frame_each(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        groups = {"agentview": [[0, 1, 2, 3, 4, 5]], "wrist": [[5, 4, 3, 2, 1, 0]]}
        root = write_v3(tmp_path / "set", self.LENGTHS, groups)
        seen(root)
        decoded = _count_decoded(monkeypatch)
        FrameCache(open_dataset(root), LightWAMConfig.nano().cameras, tmp_path / "cache").build()
        key_frames = 5  # frames from one to the next, see write_frames
        assert sum(decoded) <= 2 * sum(self.LENGTHS) + len(self.LENGTHS) * 2 * key_frames

    def test_listing_that_contradicts_itself(self, tmp_path: Path) -> None:
        root = write_v3(tmp_path / "set", (4, 5), {"agentview": [[0, 1]]})
        path = root / "meta/episodes/chunk-000/file-000.parquet"
        table = pq.read_table(path).to_pydict()

        def refused(match: str, **changes: list[float]) -> None:
            write_table(path, {**table, **changes})
            with pytest.raises(DataError, match=match):
                open_dataset(root)

        refused("claims rows 0..4 and a length of 3", length=[3, 5])
        refused("row 8 of 9 belongs to no episode", length=[4, 4], dataset_to_index=[4, 8])
        refused("row 0 of episode 1 has episode_index 0", dataset_from_index=[0, 3], dataset_to_index=[4, 8])
        seconds = "videos/observation.images.agentview/to_timestamp"
        write_table(path, {**table, seconds: [0.2, 0.4]})
        with pytest.raises(DataError, match="episode 1 has 5 rows and 4 frames of 'agentview'"):
            open_dataset(root).check(("agentview",), 8, 7)
        open_dataset(root).check((), 8, 7)  # nobody reads that camera

    def test_tables_come_in_order_of_their_numbers(self, tmp_path: Path) -> None:
        root = write_v3(tmp_path / "set", (4, 5), {"agentview": [[0, 1]]})
        path = root / "data/chunk-000/file-000.parquet"
        table = pq.read_table(path)
        pq.write_table(table[:4], root / "data/chunk-000/file-999.parquet")
        pq.write_table(table[4:], root / "data/chunk-000/file-1000.parquet")
        path.unlink()
        np.testing.assert_array_equal(open_dataset(root).state[:, 0], [0, 1, 2, 3, 100, 101, 102, 103, 104])


def _count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry a frame that a decoder delivers from now on."""
    from lightwam.data import frames

    decoded: list[int] = []

    class Counted(frames._Video):
        def _frame(self, wanted: int, fps: float | None) -> frames.Images:
            inner = self.frames
            self.frames = (decoded.append(1) or frame for frame in inner)
            try:
                return super()._frame(wanted, fps)
            finally:
                self.frames = inner

    monkeypatch.setattr(frames, "_Video", Counted)
    return decoded


def test_a_cache_is_of_its_videos(tmp_path: Path) -> None:
    root, cameras = write_v2(tmp_path / "set", (4, 3)), LightWAMConfig.nano().cameras
    cache = FrameCache(open_dataset(root), cameras, tmp_path / "cache")
    assert cache.build() == 2
    path = root / "videos/chunk-000/observation.images.wrist/episode_000001.mp4"
    write_frames(path, [200] * 3, 20)
    later = FrameCache(open_dataset(root), cameras, tmp_path / "cache")
    assert later.build() == 1
    first, second = later.dataset.episodes
    assert later.path(first) == cache.path(first)
    assert round(float(later.load(second)[:, :, cameras.width // 2 :].mean())) == pytest.approx(200, abs=2)
    path.unlink()
    with pytest.raises(DataError, match=r"episode_000001\.mp4 is missing"):
        FrameCache(open_dataset(root), cameras, tmp_path / "cache").load(second)


def test_a_file_is_told_by_its_size_its_ends_and_parts_between(tmp_path: Path) -> None:
    path, content = tmp_path / "big.mp4", bytearray(1 << 20)
    seen = set()
    for place in (None, 0, (1 << 20) - 1, ((1 << 20) - (1 << 15)) * 3 // 7 + 5):
        if place is not None:
            content[place] ^= 1
        path.write_bytes(content)
        seen.add(content_of(FrameSpan(path, 0, 3)))
    path.write_bytes(content + b"1")
    seen.add(content_of(FrameSpan(path, 0, 3)))
    seen.add(content_of(FrameSpan(path, 1, 3)))
    assert len(seen) == 6


def test_tasks_and_listing_in_any_order(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", (3, 2))
    path = root / "meta/episodes.jsonl"
    write_lines(path, [json.loads(line) for line in path.read_text().splitlines()][::-1])
    assert [episode.length for episode in open_dataset(root).episodes] == [3, 2]


def test_other_names_of_columns_and_cameras(tmp_path: Path) -> None:
    """As some LIBERO sets have them: `image`, `wrist_image`, `state`, `actions`."""
    names = {"observation.images.agentview": "image", "observation.images.wrist": "wrist_image",
             "observation.state": "state", "action": "actions"}  # fmt: skip

    def rename(episode: int, columns: Columns) -> None:
        for old, new in names.items():
            columns[new] = columns.pop(old)

    root = write_v2(tmp_path / "set", (3, 4), images=True, edit=rename, version="v2.0")
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"] = {names[key]: feature for key, feature in info["features"].items()}
    path.write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"no column 'observation\.state', only .*'state'"):
        open_dataset(root)
    robot = LightWAMConfig.libero().robot
    first, second = robot.cameras
    cameras = (replace(first, data_name="image"), replace(second, data_name="wrist_image"))
    robot = replace(robot, cameras=cameras, state_key="state", action_key="actions")
    (data,) = open_datasets([root], LightWAMConfig.libero().with_robot(robot))
    assert data.cameras == ("agentview", "wrist") and data.state[3, 0] == 100
    np.testing.assert_allclose(levels(data.episodes[1].videos["wrist"]), [grey(1, i, 1) for i in range(4)])


def test_image_columns_of_many_episodes_and_row_groups(tmp_path: Path) -> None:
    from helpers.lerobot_sets import encoded

    lengths = (4, 5, 3)
    root = write_v3(tmp_path / "set", lengths, {})
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"] = {"observation.images.wrist": {"dtype": "image"}}
    path.write_text(json.dumps(info))
    path = root / "data/chunk-000/file-000.parquet"
    cells = [{"bytes": encoded(grey(e, i)), "path": None} for e, n in enumerate(lengths) for i in range(n)]
    table = pq.read_table(path).append_column("observation.images.wrist", pa.array(cells))
    pq.write_table(table[:9], path, row_group_size=2)
    pq.write_table(table[9:], path.with_name("file-001.parquet"))
    for episode in open_dataset(root).episodes[::-1]:
        assert levels(episode.videos["wrist"]) == [grey(episode.index, i) for i in range(episode.length)]
