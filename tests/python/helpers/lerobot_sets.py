# SPDX-License-Identifier: Apache-2.0
"""A writer of small LeRobot data sets with every index column, to damage and to vary."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TASK = "open the drawer"
CAMERAS = ("agentview", "wrist")
Columns = dict[str, Any]


def grey(episode: int, row: int, camera: int = 0) -> int:
    """The grey level that names a frame."""
    return 20 + (7 * row + 40 * episode + 100 * camera) % 200


def picture(level: int, size: int = 32) -> np.ndarray:
    return np.full((size, size, 3), level, np.uint8)


def write_frames(path: Path, levels: Sequence[int], fps: int, numbers: Sequence[int] | None = None,
                 codec: str = "libx264") -> None:  # fmt: skip
    """A video of plain grey frames; `numbers` are the places in time of the frames (0, 1, 2, ... by default)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps), options={"crf": "10", "g": "5"})
        stream.height = stream.width = 32
        if codec == "mpeg4":
            stream.bit_rate = 8_000_000
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        for number, level in zip(numbers or range(len(levels)), levels, strict=True):
            frame = av.VideoFrame.from_ndarray(picture(level), format="rgb24")
            frame.pts, frame.time_base = round(1000 * number / fps), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def encoded(level: int, format: str = "PNG") -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(picture(level)).save(data, format)
    return data.getvalue()


def write_v2(
    root: Path, lengths: Sequence[int] = (6, 4, 9), *, fps: int = 20, version: str = "v2.1", images: bool = False,
    edit: Callable[[int, Columns], None] | None = None, features: Columns | None = None,
    tasks: Sequence[str] = (TASK,), codec: str = "libx264",
) -> Path:  # fmt: skip
    """A v2.1 (or v2.0) data set; `edit(episode, columns)` changes an episode's columns. Returns `root`."""
    (root / "meta").mkdir(parents=True)
    kind = "image" if images else "video"
    listed = {f"observation.images.{camera}": {"dtype": kind, "shape": [32, 32, 3]} for camera in CAMERAS}
    info = {
        "codebase_version": version, "fps": fps, "chunks_size": 1000, "features": {**listed, **(features or {})},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(info))
    write_lines(root / "meta/tasks.jsonl", [{"task_index": i, "task": task} for i, task in enumerate(tasks)])
    listing = [{"episode_index": i, "tasks": [TASK], "length": length} for i, length in enumerate(lengths)]
    write_lines(root / "meta/episodes.jsonl", listing)
    start = 0
    for episode, length in enumerate(lengths):
        columns = _columns(episode, length, start, fps)
        if images:
            for k, camera in enumerate(CAMERAS):
                cells = [{"bytes": encoded(grey(episode, i, k)), "path": None} for i in range(length)]
                columns[f"observation.images.{camera}"] = pa.array(cells)
        else:
            for k, camera in enumerate(CAMERAS):
                path = root / f"videos/chunk-000/observation.images.{camera}/episode_{episode:06d}.mp4"
                write_frames(path, [grey(episode, i, k) for i in range(length)], fps, codec=codec)
        if edit:
            edit(episode, columns)
        write_table(root / f"data/chunk-000/episode_{episode:06d}.parquet", columns)
        start += length
    return root


def write_v3(root: Path, lengths: Sequence[int], groups: dict[str, Sequence[Sequence[int]]], fps: int = 20) -> Path:
    """A v3.0 data set whose cameras put their episodes into files by `groups` (lists of episodes). Returns `root`."""
    features = {f"observation.images.{camera}": {"dtype": "video", "shape": [32, 32, 3]} for camera in groups}
    info = {"codebase_version": "v3.0", "fps": fps, "features": features,
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"}  # fmt: skip
    starts = np.cumsum([0, *lengths])
    tables = [_columns(e, n, int(starts[e]), fps) for e, n in enumerate(lengths)]
    joined = {name: pa.concat_arrays([pa.array(table[name]) for table in tables]) for name in tables[0]}
    write_table(root / "data/chunk-000/file-000.parquet", joined)
    rows: list[Columns] = [
        {"episode_index": e, "length": n, "dataset_from_index": int(starts[e]), "dataset_to_index": int(starts[e + 1])}
        for e, n in enumerate(lengths)
    ]
    for k, (camera, files) in enumerate(groups.items()):
        key = f"observation.images.{camera}"
        for number, episodes in enumerate(files):
            levels: list[int] = []
            for episode in episodes:
                place = {"chunk_index": 0, "file_index": number, "from_timestamp": len(levels) / fps}
                levels += [grey(episode, i, k) for i in range(lengths[episode])]
                place["to_timestamp"] = len(levels) / fps
                rows[episode] |= {f"videos/{key}/{name}": value for name, value in place.items()}
            write_frames(root / f"videos/{key}/chunk-000/file-{number:03d}.mp4", levels, fps)
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", {k: [row[k] for row in rows] for k in rows[0]})
    write_table(root / "meta/tasks.parquet", {"task_index": [0], "task": [TASK]})
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def _columns(episode: int, length: int, start: int, fps: int) -> Columns:
    steps = np.arange(length)
    state = np.zeros((length, 8), np.float32)
    state[:, 0] = 100 * episode + steps
    action = np.zeros((length, 7), np.float32)
    action[:, 0] = 0.01 * steps
    return {
        "observation.state": pa.array(state.tolist(), pa.list_(pa.float32())),
        "action": pa.array(action.tolist(), pa.list_(pa.float32())),
        "timestamp": pa.array((steps / fps).astype(np.float32)),
        "frame_index": pa.array(steps), "index": pa.array(start + steps),
        "episode_index": pa.array(np.full(length, episode)), "task_index": pa.array(np.zeros(length, np.int64)),
    }  # fmt: skip


def write_table(path: Path, columns: Columns) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write_lines(path: Path, rows: Sequence[Columns]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
