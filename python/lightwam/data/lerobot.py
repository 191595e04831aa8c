# SPDX-License-Identifier: Apache-2.0
"""Reader of LeRobot data sets, formats v3.0, v2.1 and v2.0, with pyarrow and PyAV.

A data set is a folder: `meta/info.json`, Parquet tables of the rows, and one video file for many episodes (v3.0) or
for each episode (v2), or image columns in the tables. States and actions are read at once (they are small); frames are
decoded when they are asked for. Columns and cameras that nobody reads do not matter.

Legend: N rows, S control steps a row (`lightwam.action_substeps`, 1 where absent), A action width, P state width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lightwam.arithmetic import default_arithmetic
from lightwam.data.dataset import Array, Columns, Dataset, Episode, FrameSpan, Report, refuse
from lightwam.data.frames import read_frames as read_frames
from lightwam.data.lerobot_rows import check_rows
from lightwam.data.parquet import Tables, open_tables, read_records
from lightwam.errors import DataError
from lightwam.files import parse_json, read_json, unreadable

STATE_KEY = "observation.state"
ACTION_KEY = "action"
IMAGE_PREFIX = "observation.images."
SUBSTEPS_KEY = "lightwam.action_substeps"
_INDEX_COLUMNS = ("index", "frame_index", "episode_index", "task_index", "timestamp")


@default_arithmetic
def open_dataset(
    root: Path,
    state_keys: str | Sequence[str] = STATE_KEY,
    action_keys: str | Sequence[str] = ACTION_KEY,
    report: Report = refuse,
) -> Dataset:
    """Read a LeRobot data set's tables.

    Args:
        root: its folder.
        state_keys: the column of the state, or several whose numbers are joined in this order.
        action_keys: likewise of the action.
        report: what is done about rows that contradict the listing or are not finite. Other faults are raised.

    Raises:
        DataError: missing, empty, damaged, of another format version, or what `report` raises.
    """
    info = _read_info(root)
    version = str(info.get("codebase_version"))
    if not version.startswith(("v3.", "v2.1", "v2.0")):
        raise DataError(f"data set {root} has format {version!r}: only LeRobot v3.0, v2.1 and v2.0 are read")
    try:
        if not (isinstance(info["fps"], (int, float)) and 0 < info["fps"] < 1e6):
            raise DataError(f"data set {root} has fps {info['fps']!r}: give the rows a second in meta/info.json")
        listing = _read_v3(root, info) if version.startswith("v3.") else _read_v2(root, info, report)
        if listing.tables.starts[-1] == 0 or not listing.episodes:
            raise DataError(f"data set {root} is empty: record at least one episode")
        keys = [(key,) if isinstance(key, str) else tuple(key) for key in (state_keys, action_keys)]
        return _assemble(root, info, listing, keys[0], keys[1], report)
    except KeyError as error:
        raise DataError(f"data set {root} is damaged: its metadata or tables lack {error}; record it again") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError, IndexError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"data set {root} is damaged: a value of its metadata is unfit ({reason})") from error


@dataclass(frozen=True)
class _Listing:
    """What the metadata says: tables, tasks, and episodes as they lie in the tables, their tasks not yet looked up."""

    tables: Tables
    tasks: dict[int, str]
    episodes: list[Episode]
    cameras: tuple[str, ...]


def _read_info(root: Path) -> dict[str, Any]:
    path = root / "meta" / "info.json"
    info = read_json(path, "data set file", DataError, "record the data set, or name another folder")
    if not isinstance(info.get("features"), dict):
        raise DataError(f"data set {root} is damaged: {path} has no 'features'; record it again")
    return info


def _cameras(info: Mapping[str, Any], dtype: str) -> dict[str, str]:
    """Name -> key of the cameras that are stored as 'video' or as 'image'; the name is the key without its prefix."""
    keys = [key for key, feature in info["features"].items() if feature.get("dtype") == dtype]
    return {key.removeprefix(IMAGE_PREFIX): key for key in keys}


def _tasks(root: Path, rows: list[dict[str, Any]]) -> dict[int, str]:
    tasks = {}
    for row in rows:
        # v3.0 keeps the task's text as the table's index column, whose name depends on the writer.
        text = row.get("task", row.get("__index_level_0__"))
        if text is None or "task_index" not in row:
            raise DataError(f"data set {root} is damaged: a task is {row}; it needs 'task' and 'task_index'")
        tasks[int(row["task_index"])] = str(text)
    return tasks


def _numbered(folder: Path) -> list[Path]:
    """chunk-N/file-M.parquet in order of their numbers."""

    def key(path: Path) -> tuple[int, int]:
        return int(path.parent.name.split("-")[-1]), int(path.stem.split("-")[-1])

    return sorted(folder.glob("chunk-*/file-*.parquet"), key=key)


def _read_v3(root: Path, info: dict[str, Any]) -> _Listing:
    tables = open_tables(root, _numbered(root / "data"))
    tasks = _tasks(root, read_records(root, [root / "meta" / "tasks.parquet"]))
    fps = float(info["fps"])
    parts = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    keys = _cameras(info, "video")
    videos = {name: [f"videos/{key}/{part}" for part in parts] for name, key in keys.items()}
    wanted = ["episode_index", "length", "dataset_from_index"]
    fields = [*wanted, "dataset_to_index", *(field for names in videos.values() for field in names)]
    rows = read_records(root, _numbered(root / "meta" / "episodes"), fields)
    missing = sorted(name for name in wanted if any(name not in row for row in rows))
    if missing:
        raise DataError(f"data set {root} is damaged: its episode table lacks {missing}; record it again")
    listed = {name: names for name, names in videos.items() if all(set(names[:3]) <= set(row) for row in rows)}
    episodes = []
    for row in sorted(rows, key=lambda row: int(row["episode_index"])):
        index, start, length = (int(row[name]) for name in ("episode_index", "dataset_from_index", "length"))
        if int(row.get("dataset_to_index", start + length)) != start + length:
            raise DataError(
                f"data set {root} is damaged: episode {index} claims rows {start}..{row['dataset_to_index']} and a "
                f"length of {length}; record it again"
            )
        spans = {name: _v3_span(root, info, row, keys[name], fields, fps) for name, fields in listed.items()}
        episodes.append(Episode(index, start, start + length, "", spans))
    return _Listing(tables, tasks, episodes, tuple(listed))


def _v3_span(
    root: Path, info: Mapping[str, Any], row: Mapping[str, Any], key: str, fields: list[str], fps: float
) -> FrameSpan:
    chunk, file, seconds = (row[field] for field in fields[:3])
    path = root / str(info["video_path"]).format(video_key=key, chunk_index=chunk, file_index=file)
    count, end = int(row["length"]), row.get(fields[3])
    if end is not None:
        count = min(count, round((end - seconds) * fps))  # fewer than rows: `Dataset.check` refuses the camera
    return FrameSpan(path, round(seconds * fps), count, fps)


def _read_v2(root: Path, info: dict[str, Any], report: Report) -> _Listing:
    cameras, fps = _cameras(info, "video"), float(info["fps"])
    chunk_size = int(info.get("chunks_size", 1000))
    tasks = _tasks(root, _read_lines(root / "meta" / "tasks.jsonl"))
    paths, episodes, start = [], [], 0
    for row in sorted(_read_lines(root / "meta" / "episodes.jsonl"), key=lambda row: int(row["episode_index"])):
        index, length = int(row["episode_index"]), int(row["length"])
        names = {"episode_chunk": index // chunk_size, "episode_index": index}
        paths.append(root / str(info["data_path"]).format(**names))
        spans = {}
        for name, key in cameras.items():
            path = root / str(info["video_path"]).format(video_key=key, **names)
            spans[name] = FrameSpan(path, 0, length, fps)
        episodes.append(Episode(index, start, start + length, "", spans))
        start += length
    if not paths:
        raise DataError(f"data set {root} is empty: record at least one episode")
    tables = open_tables(root, paths)
    faults = [
        DataError(
            f"data set {root} is damaged: episode {episode.index} has {count} rows in {path.name}, "
            f"meta/episodes.jsonl says {episode.length}; record it again"
        )
        for episode, path, count in zip(episodes, paths, np.diff(tables.starts), strict=True)
        if count != episode.length
    ]
    for fault in faults[:-1]:
        report(fault)
    if faults:
        raise faults[-1]
    return _Listing(tables, tasks, episodes, tuple(cameras))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        told = unreadable(path, error, "record the data set again")
        raise DataError(f"data set file {path} is missing or damaged: it is {told}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"data set file {path} holds a line that is no JSON object: record the data set again")
    return rows


def _image_spans(tables: Tables, episode: Episode, cameras: Mapping[str, str]) -> dict[str, FrameSpan]:
    """Where the images of an episode lie in the row tables."""
    file = int(np.searchsorted(tables.starts, episode.start, "right")) - 1
    if episode.stop > tables.starts[file + 1]:
        return {}  # spread over files, as no writer does it
    first = episode.start - int(tables.starts[file])
    return {name: FrameSpan(tables.paths[file], first, episode.length, None, key) for name, key in cameras.items()}


def _assemble(
    root: Path,
    info: dict[str, Any],
    listing: _Listing,
    state_keys: tuple[str, ...],
    action_keys: tuple[str, ...],
    report: Report,
) -> Dataset:
    tables, fps = listing.tables, float(info["fps"])
    types: dict[str, type[np.generic]] = dict.fromkeys((*state_keys, *action_keys), np.float32)
    values = tables.load(types | {name: np.float64 for name in _INDEX_COLUMNS if name in tables.names}, report)
    states = [_states(root, values[key]) for key in state_keys]
    actions = [_actions(root, values[key], info) for key in action_keys]
    state, action = np.concatenate(states, axis=-1), np.concatenate(actions, axis=-1)
    index_columns = {name: values[name] for name in _INDEX_COLUMNS if name in values}
    check_rows(root, listing.episodes, index_columns, fps, int(tables.starts[-1]), report)
    images = {name: key for name, key in _cameras(info, "image").items() if key in tables.names}
    episodes = []
    for episode in listing.episodes:
        task = listing.tasks.get(int(values["task_index"][episode.start]), "")
        if not task.strip():
            report(
                DataError(f"data set {root} is damaged: episode {episode.index} has no task's text; record it again")
            )
        videos = {**episode.videos, **_image_spans(tables, episode, images)}
        episodes.append(Episode(episode.index, episode.start, episode.stop, task, videos))
    known = {*state_keys, *action_keys, *_INDEX_COLUMNS, *images.values()}
    columns = Columns([name for name in tables.names if name not in known], tables.numbers)
    cameras = (*listing.cameras, *(name for name in images if all(name in e.videos for e in episodes)))
    dataset = Dataset(root, fps, state, action, columns, tuple(episodes), cameras, about=info)
    in_order = sorted(range(len(episodes)), key=lambda i: episodes[i].start) == list(range(len(episodes)))
    return dataset if in_order else dataset.take(range(len(episodes)))


def _states(root: Path, state: Array) -> Array:
    """A column of the state as [N, width]; one number a row is a width of 1."""
    state = state[:, None] if state.ndim == 1 else state
    if state.ndim != 2:
        raise DataError(f"data set {root} has state {state.shape}: it must be [rows, width]")
    return state


def _actions(root: Path, action: Array, info: Mapping[str, Any]) -> Array:
    """A column of the action as [N, S, A], out of [N, S A] or [N, S, A]; one number a step is a width of 1."""
    substeps = int(info.get(SUBSTEPS_KEY, 1))
    action = action[:, None] if action.ndim == 1 else action
    if action.ndim == 2:
        action = action.reshape(len(action), substeps, -1)
    if action.ndim != 3 or action.shape[1] != substeps:
        raise DataError(
            f"data set {root} has action {action.shape} at {substeps} control steps a row: it must be "
            "[rows, steps, width]"
        )
    return action
