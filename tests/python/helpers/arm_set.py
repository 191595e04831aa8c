# SPDX-License-Identifier: Apache-2.0
"""A data set of a six-joint arm as people record it: two cameras, 30 Hz, LeRobot v2.1; and the arm's robot file."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lightwam.config import LightWAMConfig, read_config

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
CAMERAS = ("front", "wrist")
TASKS = ("put the cube into the cup", "open the drawer")
LENGTHS = (24, 20, 22, 26)
HZ = 30
LEAD = 2  # rows that a command is ahead of the joint
SIDE = 32


def states(episode: int, rows: int) -> np.ndarray:
    """Smooth joint angles in degrees; the gripper opens (100) and closes (0)."""
    t = np.arange(rows)[:, None] / HZ
    rng = np.random.default_rng(episode)
    phase, amplitude = rng.uniform(0, 6, 5), rng.uniform(20, 40, 5)
    arm = amplitude * np.sin(2 * np.pi * t * rng.uniform(0.5, 1.5, 5) + phase)
    gripper = np.where(np.abs(np.arange(rows) - rows / 2) < rows / 5, 0.0, 100.0)[:, None]
    return np.hstack([arm, gripper]).astype(np.float32)


def actions(episode: int, rows: int) -> np.ndarray:
    """The joints `LEAD` rows later."""
    return states(episode, rows + LEAD)[LEAD:]


def picture(episode: int, row: int, camera: int) -> np.ndarray:
    """A scene that looks alike in all episodes and has no symmetry; a spot moves."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    image = np.stack([6 * x + 20, 3 * (x + y), 200 - 5 * y], -1).astype(np.float64)
    if camera:
        waves = 128 + 90 * np.sin(x / 3) * np.cos(y / 4 + 1)
        image = np.stack([waves, waves / 2 + 2 * y, waves / 3], -1)
    left = (row + 3 * episode) % (SIDE - 6)
    image[4:10, left : left + 6] = 255
    return image.clip(0, 255).astype(np.uint8)


def write_video(path: Path, images: list[np.ndarray], numbers: list[int] | None = None) -> None:
    """H.264, frame k at k / 30 s, or at the places `numbers`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(HZ), options={"crf": "4", "g": "8", "bf": "0"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 3000)
        stream.codec_context.thread_count = 1
        for number, image in zip(numbers or range(len(images)), images, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = 100 * number, Fraction(1, 3000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def video_path(root: Path, episode: int, camera: str = "front") -> Path:
    return root / f"videos/chunk-000/observation.images.{camera}/episode_{episode:06d}.mp4"


def table_path(root: Path, episode: int) -> Path:
    return root / f"data/chunk-000/episode_{episode:06d}.parquet"


def write_arm_set(root: Path) -> Path:
    """Write the set; returns `root`."""
    names = [f"{joint}.pos" for joint in JOINTS]
    features: dict[str, Any] = {
        f"observation.images.{camera}": {"dtype": "video", "shape": [SIDE, SIDE, 3], "names": ["height", "width", "c"]}
        for camera in CAMERAS
    }
    features |= {key: {"dtype": "float32", "shape": [6], "names": names} for key in ("observation.state", "action")}
    info = {
        "codebase_version": "v2.1", "robot_type": "so101_follower", "fps": HZ, "chunks_size": 1000,
        "total_episodes": len(LENGTHS), "total_frames": sum(LENGTHS), "features": features,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }  # fmt: skip
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    write_tasks(root, list(TASKS))
    lines = [{"episode_index": e, "tasks": [TASKS[e % 2]], "length": n} for e, n in enumerate(LENGTHS)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    start = 0
    for e, n in enumerate(LENGTHS):
        steps = np.arange(n)
        table = {
            "observation.state": pa.array(states(e, n).tolist(), pa.list_(pa.float32())),
            "action": pa.array(actions(e, n).tolist(), pa.list_(pa.float32())),
            "timestamp": pa.array((steps / HZ).astype(np.float32)), "frame_index": pa.array(steps),
            "index": pa.array(start + steps), "episode_index": pa.array(np.full(n, e)),
            "task_index": pa.array(np.full(n, e % 2)),
        }  # fmt: skip
        table_path(root, e).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), table_path(root, e))
        for k, camera in enumerate(CAMERAS):
            write_video(video_path(root, e, camera), [picture(e, i, k) for i in range(n)])
        start += n
    return root


def write_tasks(root: Path, tasks: list[str]) -> None:
    lines = [json.dumps({"task_index": i, "task": task}) + "\n" for i, task in enumerate(tasks)]
    (root / "meta/tasks.jsonl").write_text("".join(lines))


def edit_table(root: Path, episode: int, edit: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change an episode's columns in place: {name: [n, ...]}; `edit` may replace entries."""
    path = table_path(root, episode)
    table = pq.read_table(path)
    columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    edit(columns)
    pq.write_table(pa.table({name: pa.array(value.tolist()) for name, value in columns.items()}), path)


def edit_all(root: Path, edit: Callable[[dict[str, np.ndarray]], None]) -> None:
    """`edit_table` of every episode."""
    for episode in range(len(LENGTHS)):
        edit_table(root, episode, edit)


def edit_info(root: Path, **changes: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def robot_document(**changes: Any) -> dict[str, Any]:
    """The content of the arm's robot file on the base `nano`; `changes` replace fields of the robot."""
    dimensions = [{"name": name, "unit": "%" if name == "gripper" else "deg"} for name in JOINTS]
    robot: dict[str, Any] = {
        "name": "so101", "control_hz": float(HZ), "state": dimensions, "action": dimensions,
        "cameras": [
            {"name": name, "top": 0, "left": 32 * i, "height": 32, "width": 32} for i, name in enumerate(CAMERAS)
        ],
        "gripper": {"dimension": "gripper", "data_open": 100.0, "data_closed": 0.0, "robot_open": 100.0,
                    "robot_closed": 0.0},
    }  # fmt: skip
    return {"base": "nano", "robot": robot | changes}


def arm_config(folder: Path, **changes: Any) -> LightWAMConfig:
    """The configuration of `robot_document(**changes)`, by way of a file in `folder`."""
    path = folder / "robot.json"
    path.write_text(json.dumps(robot_document(**changes)))
    return read_config(path)
