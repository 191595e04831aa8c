# SPDX-License-Identifier: Apache-2.0
"""Join staged episodes (`episode_files`) into a LeRobot v3.0 data set, without decoding or encoding a frame.

Layout: meta/{info.json, stats.json, tasks.parquet, episodes/chunk-000/file-000.parquet},
data/chunk-000/file-NNN.parquet, videos/{key}/chunk-000/file-NNN.mp4 with many episodes a file. Statistics come from the
rows, and for images from what was summed up while recording. Legend: N rows, T rows of one episode.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lightwam.arithmetic import default_arithmetic
from lightwam.config import RobotConfig
from lightwam.data.episode_files import META_FILE, read_episode_meta, read_episode_rows, summary
from lightwam.data.lerobot import IMAGE_PREFIX, SUBSTEPS_KEY
from lightwam.errors import DataError
from lightwam.files import replacing_folder
from lightwam.progress import progress_bar

Array = npt.NDArray[Any]

VERSION = "v3.0"
EPISODES_A_FILE = 100
CHUNK_SIZE = 1000
RECORDING_KEY = "lightwam.recording"
"""In info.json: what the recording depends on (`lightwam.sim.record`)."""
SIMULATOR_KEY = "lightwam.simulator"
"""In info.json: scene -> what tells the simulator that it was recorded in from others (`SimulatorEnv.fingerprint`)."""
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


@dataclass(frozen=True)
class StagedEpisode:
    """One staged episode: its folder, meta data and columns (name -> [T, ...])."""

    folder: Path
    meta: dict[str, Any]
    rows: dict[str, Array]

    @property
    def length(self) -> int:
        return len(next(iter(self.rows.values())))

    @property
    def cameras(self) -> list[str]:
        return list(self.meta["image_shape"])


@default_arithmetic
def write_dataset(
    staging: Path,
    out: Path,
    robot: RobotConfig,
    *,
    fps: int,
    robot_type: str,
    recording: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write every finished episode under `staging` as the data set `out`, which appears whole; returns its info.json.

    Args:
        staging: folder of the staged episodes.
        out: the data set; an older one is replaced.
        robot: what was recorded: names of the state, orientation of the images, gripper values.
        fps: rows a second.
        robot_type: as LeRobot names the robot.
        recording: what the episodes depend on, for info.json.

    Raises:
        DataError: there is no episode, an episode is damaged, or episodes do not fit together.
    """
    folders = sorted(path.parent for path in staging.glob(f"episode_*/{META_FILE}"))
    if not folders:
        raise DataError(f"no finished episode in {staging}: record some first")
    episodes = [StagedEpisode(folder, read_episode_meta(folder), read_episode_rows(folder)) for folder in folders]
    _check_alike(episodes)
    tasks = list(dict.fromkeys(str(episode.meta["task"]) for episode in episodes))
    info = _info(episodes, tasks, robot, fps, robot_type)
    if recording is not None:
        info[RECORDING_KEY] = dict(recording)
    if any("simulator" in episode.meta for episode in episodes):
        info[SIMULATOR_KEY] = _simulators(episodes)
    groups = [episodes[start : start + EPISODES_A_FILE] for start in range(0, len(episodes), EPISODES_A_FILE)]
    listing: list[dict[str, Any]] = []
    with replacing_folder(out) as building, progress_bar("joining episodes", len(episodes), show=True) as advance:
        for file_index, group in enumerate(groups):
            listing += _write_group(building, group, file_index, tasks, fps, listing)
            advance(len(group))
        _write_table(building / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(listing))
        _write_tasks(building / "meta/tasks.parquet", tasks)
        _write_json(building / "meta/stats.json", _statistics(episodes))
        _write_json(building / "meta/info.json", info)
    return info


def _check_alike(episodes: list[StagedEpisode]) -> None:
    first = {name: column.shape[1:] for name, column in episodes[0].rows.items()}
    for episode in episodes:
        shapes = {name: column.shape[1:] for name, column in episode.rows.items()}
        if shapes != first or episode.meta["image_shape"] != episodes[0].meta["image_shape"]:
            raise DataError(
                f"episode {episode.folder} has columns {shapes} and images {episode.meta['image_shape']}, others have "
                f"{first} and {episodes[0].meta['image_shape']}: record them into different folders"
            )


def _simulators(episodes: list[StagedEpisode]) -> dict[str, list[Any]]:
    """The different fingerprints of each scene: more than one where machines or versions differed."""
    found: dict[str, list[Any]] = {}
    for episode in episodes:
        known = found.setdefault(str(episode.meta.get("scene")), [])
        if episode.meta.get("simulator") not in known:
            known.append(episode.meta.get("simulator"))
    return found


# -- rows and videos ------------------------------------------------------------------------------------------------


def _write_group(
    root: Path, group: list[StagedEpisode], file_index: int, tasks: list[str], fps: int, before: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Write one data file and one video file a camera; returns the listing's rows of these episodes."""
    next_row = int(before[-1]["dataset_to_index"]) if before else 0
    tables: list[pa.Table] = []
    listing: list[dict[str, Any]] = []
    seconds = 0.0
    for episode in group:
        index, stop = len(before) + len(listing), next_row + episode.length
        tables.append(_episode_table(episode, index, next_row, tasks.index(str(episode.meta["task"])), fps))
        entry: dict[str, Any] = {
            "episode_index": index,
            "tasks": [str(episode.meta["task"])],
            "length": episode.length,
            "data/chunk_index": 0,
            "data/file_index": file_index,
            "dataset_from_index": next_row,
            "dataset_to_index": stop,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            "lightwam.kind": str(episode.meta["kind"]),
        }
        for camera in episode.cameras:
            key = f"videos/{IMAGE_PREFIX}{camera}"
            entry |= {f"{key}/chunk_index": 0, f"{key}/file_index": file_index}
            entry |= {f"{key}/from_timestamp": seconds, f"{key}/to_timestamp": seconds + episode.length / fps}
        for name, statistics in _statistics([episode]).items():
            entry |= {f"stats/{name}/{what}": value for what, value in statistics.items()}
        listing.append(entry)
        next_row, seconds = stop, seconds + episode.length / fps
    _write_table(root / f"data/chunk-000/file-{file_index:03d}.parquet", pa.concat_tables(tables))
    for camera in group[0].cameras:
        path = root / f"videos/{IMAGE_PREFIX}{camera}/chunk-000/file-{file_index:03d}.mp4"
        join_videos([(episode.folder / f"{camera}.mp4", episode.length) for episode in group], path, fps)
    return listing


def _episode_table(episode: StagedEpisode, index: int, first_row: int, task_index: int, fps: int) -> pa.Table:
    length = episode.length
    columns = {name: _arrow(column) for name, column in episode.rows.items()}
    columns["timestamp"] = pa.array((np.arange(length) / fps).astype(np.float32))
    columns["frame_index"] = pa.array(np.arange(length, dtype=np.int64))
    columns["episode_index"] = pa.array(np.full(length, index, dtype=np.int64))
    columns["index"] = pa.array(np.arange(first_row, first_row + length, dtype=np.int64))
    columns["task_index"] = pa.array(np.full(length, task_index, dtype=np.int64))
    return pa.table(columns)


def _arrow(column: Array) -> pa.Array:
    """An array [T, ...] as (nested) Arrow lists."""
    values = pa.array(np.ascontiguousarray(column).reshape(-1))
    for axis in range(column.ndim - 1, 0, -1):
        count, width = int(np.prod(column.shape[:axis])), column.shape[axis]
        values = pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * width), values)
    return values


def join_videos(parts: Iterable[tuple[Path, int]], path: Path, fps: int) -> None:
    """Append the packets of videos (file, frames) into one mp4 at `path`, untouched.

    Raises DataError where a part is damaged, has another number of frames, or another encoding than the first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    frame, header = 0, b""
    with av.open(str(path), "w", format="mp4") as target:
        stream: Any = None
        for source_path, length in parts:
            try:
                with av.open(str(source_path)) as source:
                    template: Any = source.streams.video[0]
                    if stream is None:
                        stream = target.add_stream_from_template(template)
                        header = bytes(template.codec_context.extradata or b"")
                    elif bytes(template.codec_context.extradata or b"") != header:
                        raise DataError(f"video {source_path} is encoded unlike the others: record it again")
                    packets = [packet for packet in source.demux(template) if packet.size > 0]
            except (av.FFmpegError, OSError) as error:
                raise DataError(f"video {source_path} is damaged ({error}): record the episode again") from error
            if len(packets) != length:
                raise DataError(f"video {source_path} has {len(packets)} frames for {length} rows: record it again")
            tick = Fraction(1, fps) / template.time_base
            for number, packet in enumerate(packets):
                packet.pts = packet.dts = int((frame + number) * tick)
                packet.duration = int(tick)
                packet.stream = stream
                target.mux(packet)
            frame += length


# -- meta data ------------------------------------------------------------------------------------------------------


def _summary(values_NX: Array) -> dict[str, list[Any]]:
    values = values_NX.astype(np.float64)
    quantiles = {name: np.quantile(values, q, axis=0).tolist() for name, q in QUANTILES.items()}
    return summary(values, len(values)) | quantiles


def _pooled_images(parts: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Exact pooled per-channel statistics of several episodes' images, shaped [3, 1, 1] as LeRobot keeps them."""
    counts = np.array([part["count"][0] for part in parts], dtype=np.float64)[:, None]
    means, stds = np.array([p["mean"] for p in parts]), np.array([p["std"] for p in parts])
    mean = (counts * means).sum(0) / counts.sum()
    variance = (counts * (stds**2 + means**2)).sum(0) / counts.sum() - mean**2
    columns = {
        "min": np.min([p["min"] for p in parts], axis=0),
        "max": np.max([p["max"] for p in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(np.maximum(variance, 0.0)),
    }
    shaped: dict[str, Any] = {name: value.reshape(3, 1, 1).tolist() for name, value in columns.items()}
    return shaped | {"count": [int(counts.sum())]}


def _statistics(episodes: list[StagedEpisode]) -> dict[str, dict[str, Any]]:
    """Statistics of every feature over all rows, in the layout of meta/stats.json. Decodes no video."""
    result = {name: _summary(np.concatenate([episode.rows[name] for episode in episodes])) for name in episodes[0].rows}
    for camera in episodes[0].cameras:
        parts = [episode.meta["image_statistics"][camera] for episode in episodes]
        result[IMAGE_PREFIX + camera] = _pooled_images(parts)
    return result


def _info(
    episodes: list[StagedEpisode], tasks: list[str], robot: RobotConfig, fps: int, robot_type: str
) -> dict[str, Any]:
    axis_names = {"observation.state": [dimension.name for dimension in robot.state]}
    features: dict[str, Any] = {}
    for camera, shape in episodes[0].meta["image_shape"].items():
        features[IMAGE_PREFIX + camera] = _video_feature(shape, fps)
    for name, column in episodes[0].rows.items():
        feature = {"dtype": str(column.dtype), "shape": list(column.shape[1:]), "names": axis_names.get(name)}
        features[name] = feature
    for name, dtype in (("timestamp", "float32"), *((key, "int64") for key in _INDEX_COLUMNS)):
        features[name] = {"dtype": dtype, "shape": [1], "names": None}
    action = episodes[0].rows["action"]
    return {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": len(episodes),
        "total_frames": sum(episode.length for episode in episodes),
        "total_tasks": len(tasks),
        "chunks_size": CHUNK_SIZE,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
        SUBSTEPS_KEY: int(action.shape[1]) if action.ndim == 3 else 1,
        **_conventions(robot),
    }


def _conventions(robot: RobotConfig) -> dict[str, str]:
    """For people: the gripper's values and the images' orientation."""
    rule = robot.gripper
    gripper = {} if rule is None else {"lightwam.gripper": f"{rule.data_closed:g} close, {rule.data_open:g} open"}
    orientations = ", ".join(sorted({camera.in_data for camera in robot.cameras}))
    lie = orientations.replace("rotated_180", "turned by 180 degrees")
    return {**gripper, "lightwam.images": f"raw camera images, as the simulator delivers them ({lie})"}


_INDEX_COLUMNS = ("frame_index", "episode_index", "index", "task_index")


def _video_feature(shape: list[int], fps: int) -> dict[str, Any]:
    height, width, channels = shape
    return {
        "dtype": "video",
        "shape": shape,
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": channels,
            "has_audio": False,
        },
    }


def _write_tasks(path: Path, tasks: list[str]) -> None:
    """tasks.parquet: the task text is the data frame's index, as pandas writes it and LeRobot reads it."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "__index_level_0__": tasks})
    text = {"name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    number = {"name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    pandas = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [],
        "columns": [
            number | {"field_name": "task_index"},
            text | {"field_name": "__index_level_0__"},
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    _write_table(path, table.replace_schema_metadata({"pandas": json.dumps(pandas)}))


def _write_table(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1))
