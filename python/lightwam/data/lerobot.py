# SPDX-License-Identifier: Apache-2.0
"""Reader of LeRobot data sets, format v3.0 and v2.1, with pyarrow and PyAV.

A data set is a folder: `meta/info.json`, Parquet tables of the rows, and one video file for many episodes (v3.0) or
for each episode (v2.1). Rows are read at once (they are small); frames are decoded file by file, in order.

Legend: N rows, S control steps a row (`lightwam.action_substeps`, 1 where absent), A action width, P state width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lightwam.arithmetic import default_arithmetic
from lightwam.config import LightWAMConfig
from lightwam.errors import DataError
from lightwam.file_kind import file_kind
from lightwam.files import parse_json, read_json, unreadable

STATE_KEY = "observation.state"
ACTION_KEY = "action"
IMAGE_PREFIX = "observation.images."
SUBSTEPS_KEY = "lightwam.action_substeps"


@dataclass(frozen=True)
class VideoSpan:
    """Where one camera's frames of one episode lie: `count` frames of a file, from frame `first` on."""

    path: Path
    first: int
    count: int


@dataclass(frozen=True)
class Episode:
    """Rows [start, stop) of the data set's tables, and the camera videos that belong to them."""

    index: int
    start: int
    stop: int
    task: str
    videos: dict[str, VideoSpan]

    @property
    def length(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class LeRobotDataset:
    """All rows of a data set in memory: state [N, P], action [N, S, A], extra columns, and its episodes.

    Actions are in the data set's own convention (LIBERO's gripper: 0 close, 1 open).
    """

    root: Path
    fps: float
    state: npt.NDArray[np.float32]
    action: npt.NDArray[np.float32]
    columns: dict[str, npt.NDArray[np.float32]]
    episodes: tuple[Episode, ...]
    cameras: tuple[str, ...]

    @property
    def action_substeps(self) -> int:
        """Control steps a row holds."""
        return int(self.action.shape[1])

    def check(self, cameras: tuple[str, ...], state_width: int, action_width: int) -> None:
        """Raise `DataError` unless the data set has these cameras and widths."""
        missing = sorted(set(cameras) - set(self.cameras))
        if missing:
            raise DataError(f"data set {self.root} has cameras {list(self.cameras)}, without {missing}: choose another")
        for name, wanted, found in (
            ("state", state_width, self.state.shape[1]),
            ("action", action_width, self.action.shape[2]),
        ):
            if wanted != found:
                raise DataError(f"data set {self.root} has {name} width {found}: the configuration has {wanted}")


@default_arithmetic
def open_dataset(root: Path) -> LeRobotDataset:
    """Read a data set's tables. Raises `DataError`: missing, empty, damaged, or of another format version."""
    info = _read_info(root)
    version = str(info.get("codebase_version"))
    if not version.startswith(("v3.", "v2.1")):
        raise DataError(f"data set {root} has format {version!r}: only LeRobot v3.0 and v2.1 are read")
    try:
        table, spans = (_read_v3 if version.startswith("v3.") else _read_v21)(root, info)
        if table.num_rows == 0 or not spans:
            raise DataError(f"data set {root} is empty: record at least one episode")
        return _assemble(root, info, table, spans)
    except KeyError as error:
        raise DataError(f"data set {root} is damaged: its metadata or tables lack {error}; record it again") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError, IndexError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"data set {root} is damaged: a value of its metadata is unfit ({reason})") from error


def open_datasets(
    folders: Sequence[Path], config: LightWAMConfig, max_episodes: int | None = None
) -> list[LeRobotDataset]:
    """Data sets with the configuration's cameras and widths, of each the first `max_episodes`. Raises `DataError`."""
    if not folders:
        raise DataError("no data set is given: name at least one folder after --data")
    datasets = [first_episodes(open_dataset(folder), max_episodes) for folder in folders]
    for dataset in datasets:
        dataset.check(tuple(camera.name for camera in config.cameras.cameras), config.state_dim, config.action_dim)
    return datasets


def first_episodes(dataset: LeRobotDataset, count: int | None) -> LeRobotDataset:
    """The data set's first `count` episodes (all of them for None), which must lie in order from row 0."""
    if count is None or count >= len(dataset.episodes):
        return dataset
    if count < 1:
        raise DataError(f"episode count is {count}: use at least 1")
    episodes = dataset.episodes[:count]
    if [episode.start for episode in episodes] != [0, *(episode.stop for episode in episodes[:-1])]:
        raise DataError(f"data set {dataset.root} keeps its episodes out of order: it can only be used whole")
    rows = slice(0, episodes[-1].stop)
    columns = {name: column[rows] for name, column in dataset.columns.items()}
    return replace(dataset, state=dataset.state[rows], action=dataset.action[rows], columns=columns, episodes=episodes)


def _read_info(root: Path) -> dict[str, Any]:
    path = root / "meta" / "info.json"
    info = read_json(path, "data set file", DataError, "record the data set, or name another folder")
    if not isinstance(info.get("features"), dict):
        raise DataError(f"data set {root} is damaged: {path} has no 'features'; record it again")
    return info


def _camera_names(root: Path, info: dict[str, Any]) -> tuple[str, ...]:
    names = []
    for key, feature in info["features"].items():
        if key.startswith(IMAGE_PREFIX):
            if feature.get("dtype") != "video":
                raise DataError(f"data set {root} stores {key} as {feature.get('dtype')!r}: only 'video' is read")
            names.append(key.removeprefix(IMAGE_PREFIX))
    return tuple(names)


def _read_tables(root: Path, paths: list[Path]) -> pa.Table:
    if not paths:
        raise DataError(f"data set {root} is empty: it has no Parquet files; record at least one episode")
    return pa.concat_tables([_read_table(root, path) for path in paths])


def _read_table(root: Path, path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        told = unreadable(path, " ".join(str(error).split()), "record it again", ("parquet",))
        raise DataError(f"data set {root} is damaged: {path} is {told}") from error


def _tasks(root: Path, rows: list[dict[str, Any]]) -> dict[int, str]:
    tasks = {}
    for row in rows:
        # v3.0 keeps the task's text as the table's index column, whose name depends on the writer.
        text = row.get("task", row.get("__index_level_0__"))
        if text is None or "task_index" not in row:
            raise DataError(f"data set {root} is damaged: a task is {row}; it needs 'task' and 'task_index'")
        tasks[int(row["task_index"])] = str(text)
    return tasks


def _read_v3(root: Path, info: dict[str, Any]) -> tuple[pa.Table, list[Episode]]:
    table = _read_tables(root, sorted((root / "data").glob("chunk-*/file-*.parquet")))
    listing = _read_tables(root, sorted((root / "meta" / "episodes").glob("chunk-*/file-*.parquet")))
    tasks = _tasks(root, _read_tables(root, [root / "meta" / "tasks.parquet"]).to_pylist())
    cameras, fps = _camera_names(root, info), float(info["fps"])
    wanted = ["episode_index", "length", "dataset_from_index"]
    fields = [f"videos/{IMAGE_PREFIX}{name}/{part}" for name in cameras
              for part in ("chunk_index", "file_index", "from_timestamp")]  # fmt: skip
    missing = sorted(set(wanted + fields) - set(listing.column_names))
    if missing:
        raise DataError(f"data set {root} is damaged: its episode table lacks {missing}; record it again")
    order = np.argsort(listing["episode_index"].to_numpy())
    task_of_row = table["task_index"].to_numpy()
    episodes = []
    rows = listing.select(wanted + fields).to_pylist()
    for row in (rows[i] for i in order):
        start, length = int(row["dataset_from_index"]), int(row["length"])
        videos = {}
        for name in cameras:
            key = IMAGE_PREFIX + name
            path = root / str(info["video_path"]).format(
                video_key=key,
                chunk_index=row[f"videos/{key}/chunk_index"],
                file_index=row[f"videos/{key}/file_index"],
            )
            videos[name] = VideoSpan(path, round(row[f"videos/{key}/from_timestamp"] * fps), length)
        task = tasks.get(int(task_of_row[start])) if start < table.num_rows else None
        episodes.append(Episode(int(row["episode_index"]), start, start + length, task or "", videos))
    return table, episodes


def _read_v21(root: Path, info: dict[str, Any]) -> tuple[pa.Table, list[Episode]]:
    cameras = _camera_names(root, info)
    chunk_size = int(info.get("chunks_size", 1000))
    tasks = _tasks(root, _read_lines(root / "meta" / "tasks.jsonl"))
    tables, episodes, start = [], [], 0
    for row in sorted(_read_lines(root / "meta" / "episodes.jsonl"), key=lambda row: int(row["episode_index"])):
        index, length = int(row["episode_index"]), int(row["length"])
        names = {"episode_chunk": index // chunk_size, "episode_index": index}
        table = _read_tables(root, [root / str(info["data_path"]).format(**names)])
        videos = {
            name: VideoSpan(root / str(info["video_path"]).format(video_key=IMAGE_PREFIX + name, **names), 0, length)
            for name in cameras
        }
        task = tasks.get(int(table["task_index"][0].as_py()), "") if table.num_rows else ""
        tables.append(table)
        episodes.append(Episode(index, start, start + length, task, videos))
        start += length
    if not tables:
        raise DataError(f"data set {root} is empty: record at least one episode")
    return pa.concat_tables(tables), episodes


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        told = unreadable(path, error, "record the data set again")
        raise DataError(f"data set file {path} is missing or damaged: it is {told}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"data set file {path} holds a line that is no JSON object: record the data set again")
    return rows


def _column(root: Path, table: pa.Table, key: str) -> npt.NDArray[np.float32]:
    """A column of numbers or (nested) lists of numbers as float32 [N, ...]."""
    if key not in table.column_names:
        raise DataError(f"data set {root} has no column {key!r}, only {table.column_names}: choose another data set")
    rows = table[key].to_pylist()
    try:
        values = np.asarray(rows, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"data set {root} has rows of unequal width in {key!r}: record it again") from error
    if not np.isfinite(values).all():
        raise DataError(f"data set {root} has NaN or infinity in {key!r}: record it again")
    return values


def _assemble(root: Path, info: dict[str, Any], table: pa.Table, episodes: list[Episode]) -> LeRobotDataset:
    for episode in episodes:
        if episode.start < 0 or episode.length < 1 or episode.stop > table.num_rows:
            raise DataError(
                f"data set {root} is damaged: episode {episode.index} claims rows {episode.start}..{episode.stop} "
                f"of {table.num_rows}; record it again"
            )
        if not episode.task:
            raise DataError(f"data set {root} is damaged: episode {episode.index} has no task's text; record it again")
    state, action = _column(root, table, STATE_KEY), _column(root, table, ACTION_KEY)
    substeps = int(info.get(SUBSTEPS_KEY, 1))
    if action.ndim == 2:
        action = action.reshape(len(action), substeps, -1)
    if state.ndim != 2 or action.ndim != 3 or action.shape[1] != substeps:
        raise DataError(
            f"data set {root} has state {state.shape} and action {action.shape} at {substeps} control steps a row: "
            "state must be [rows, width], action [rows, steps, width]"
        )
    known = {STATE_KEY, ACTION_KEY, "index", "frame_index", "episode_index", "task_index", "timestamp"}
    columns = {}
    for key in (name for name in table.column_names if name not in known):
        if pa.types.is_list(table.schema.field(key).type) or pa.types.is_fixed_size_list(table.schema.field(key).type):
            columns[key] = _column(root, table, key)
    cameras = _camera_names(root, info)
    return LeRobotDataset(root, float(info["fps"]), state, action, columns, tuple(episodes), cameras)


def read_frames(spans: list[VideoSpan]) -> Iterator[npt.NDArray[np.uint8]]:
    """Decode spans of ONE video file, given in order of `first`; yields uint8 RGB [count, h, w, 3] for each.

    The file is decoded once, from its start to the end of the last span. Raises `DataError`.
    """
    import av

    path, position = spans[0].path, 0
    try:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "NONE"
            frames = container.decode(video=0)
            for span in spans:
                if span.first < position:
                    raise DataError(f"video {path} is asked for frame {span.first} after {position}: spans overlap")
                for _ in range(span.first - position):
                    next(frames)
                images = [next(frames).to_ndarray(format="rgb24") for _ in range(span.count)]
                position = span.first + span.count
                yield np.stack(images)
    except StopIteration as error:
        raise DataError(f"video {path} ends before frame {position}: record the data set again") from error
    except (av.FFmpegError, OSError) as error:
        if (kind := file_kind(path)).remedy:
            raise DataError(f"video {path} is {kind}") from error
        raise DataError(f"video {path} is missing or damaged ({error}): record the data set again") from error
