# SPDX-License-Identifier: Apache-2.0
"""The real-robot HDF5 layout and RoboTwin's own: what is read, and one error for each kind of bad file."""

from __future__ import annotations

import builtins
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.golden_data import robotwin
from lightwam.data.frames import read_frames
from lightwam.data.published_statistics import published_statistics
from lightwam.data.real_robot import open_real_robot
from lightwam.data.robotwin import open_robotwin
from lightwam.data.samples import SampleOptions, Samples
from lightwam.data.sources import fitted, open_dataset
from lightwam.data.windows import WindowIndex, build_windows
from lightwam.errors import DataError

h5py = pytest.importorskip("h5py")
CONFIG = robotwin()
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def plain(level: int) -> np.ndarray:
    return np.full((16, 16, 3), level, np.uint8)


def write_episode(path: Path, rows: int, *, actions: int | None = None, images: int | None = None,
                  form: str = "vlen", task: str | bytes | None = "lift the pot", width: int = 14) -> Path:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        if task is not None:
            file.attrs["task"] = task
        ramp = np.arange(rows, dtype=np.float32)[:, None]
        file["observation/state"] = np.repeat(ramp, width, 1)
        file["action"] = np.repeat(np.arange(actions or rows, dtype=np.float32)[:, None] + 0.5, width, 1)
        for camera in CAMERAS:
            frames = [encoded(plain(i)) for i in range(images or rows)]
            name = f"observation/images/{camera}"
            if form == "vlen":
                made = file.create_dataset(name, (len(frames),), h5py.vlen_dtype(np.uint8))
                for i, frame in enumerate(frames):
                    made[i] = np.frombuffer(frame, np.uint8)
            elif form == "padded":
                longest = max(map(len, frames)) + 5
                file[name] = np.stack([np.frombuffer(f.ljust(longest, b"\0"), np.uint8) for f in frames])
            else:
                file[name] = np.stack([plain(i) for i in range(images or rows)])
    return path


@pytest.mark.parametrize("form", ["vlen", "padded", "raw"])
def test_rows_and_frames(tmp_path: Path, form: str) -> None:
    for number, rows in ((10, 35), (2, 34)):
        write_episode(tmp_path / f"episode_{number}.hdf5", rows, form=form, task=b"lift the pot")
    data = open_dataset(tmp_path)
    assert [(e.index, e.length, e.task) for e in data.episodes] == [(2, 34, "lift the pot"), (10, 35, "lift the pot")]
    (images,) = read_frames([replace(data.episodes[1].videos["cam_high"], first=3, count=2)])
    assert images[:, 0, 0, 0].tolist() == [3, 4]
    assert data.fps is None and data.whole_windows


def test_a_row_is_a_whole_window(tmp_path: Path) -> None:
    sizes = [(40, None, None), (40, 35, None), (40, 60, 36), (40, 39, None), (20, None, None)]
    for number, (rows, actions, images) in enumerate(sizes):
        write_episode(tmp_path / f"episode_{number}.hdf5", rows, actions=actions, images=images)
    with pytest.warns(UserWarning, match="lengths differ"):
        data = fitted(open_dataset(tmp_path, CONFIG.robot), CONFIG.robot)
    for stride in (1, 2):
        short = replace(
            CONFIG, video=replace(CONFIG.video, num_frames=5), horizon=16, replan_steps=16
        )  # windows of 17 states
        for config, states in ((CONFIG, 33), (short, 17)):
            wanted = [
                max(
                    0, min(min(rows, images or rows) - (states - 1) * stride, (actions or rows) - (states - 2) * stride)
                )
                for rows, actions, images in sizes
            ]
            if sum(wanted) == 0:
                with pytest.raises(DataError, match="as long as a window"):
                    WindowIndex(data, config, stride)
                continue
            index = WindowIndex(data, config, stride)
            found = [int(((index.rows >= e.start) & (index.rows < e.stop)).sum()) for e in data.episodes]
            assert found == wanted
            windows, (states, is_pad) = index.windows(index.rows), index.state_windows(index.rows)
            assert not (is_pad.any() or windows.action_is_pad_NH.any() or windows.image_is_pad_NF.any())
            np.testing.assert_array_equal(windows.action_NHA[:, :, 0], states[:, :-1, 0] + 0.5)


def test_missing_actions_are_padding(tmp_path: Path) -> None:
    write_episode(tmp_path / "episode_0.hdf5", 6, actions=5)
    data = open_dataset(tmp_path)
    windows = build_windows(data, CONFIG)
    assert windows.action_is_pad_NH[0].tolist() == [False] * 5 + [True] * 27
    assert windows.action_NHA[5, 0, 0] == 4.5 and windows.action_is_pad_NH[5].all()
    is_pad = WindowIndex(data, CONFIG, whole=False).state_windows(np.array([0]))[1]
    assert is_pad[0].tolist() == [False] * 6 + [True] * 27


def test_an_episode_of_one_window(tmp_path: Path) -> None:
    for number, rows in enumerate((33, 36)):
        write_episode(tmp_path / f"episode_{number}.hdf5", rows)
    data = fitted(open_dataset(tmp_path, CONFIG.robot), CONFIG.robot)
    ours, theirs = (published_statistics([data], CONFIG, one_window_is_nan=nan) for nan in (False, True))
    for field in ("state", "action"):
        assert np.isnan(theirs[field]["default"]["global_std"]).all()
        assert np.isfinite(ours[field]["default"]["global_std"]).all()
        assert theirs[field]["default"]["global_mean"] == ours[field]["default"]["global_mean"]
    with pytest.raises(DataError, match="finite"):
        Samples(data, CONFIG, theirs)
    assert len(Samples(data, CONFIG, ours)) == 5
    assert len(Samples(data, CONFIG, ours, SampleOptions(whole_windows=False))) == 69


def test_bad_files_are_one_error_each(tmp_path: Path) -> None:
    path = tmp_path / "episode_0.hdf5"

    def refused(match: str) -> None:
        with pytest.raises(DataError, match=match) as caught:
            open_dataset(tmp_path)
        assert "\n" not in str(caught.value)

    refused("no known format")
    path.write_bytes(b"no HDF5")
    refused("missing or damaged")
    write_episode(path, 34, task=None)
    refused("no attribute 'task'")

    def edited(name: str, value: Any) -> None:
        write_episode(path, 34)
        with h5py.File(path, "a") as file:
            del file[name]
            if value is not None:
                file[name] = value

    edited("action", None)
    refused("no data set 'action'")
    edited("action", np.full((34, 14), np.nan, np.float32))
    refused("NaN or infinity in 'action'")
    edited("observation/state", np.zeros(34))
    refused(r"must be numbers \[T, width\]")
    write_episode(path, 34)
    write_episode(tmp_path / "episode_1.hdf5", 34, width=7)
    refused(r"widths \[7, 14\]")
    with pytest.raises(DataError, match="no file episode_N"):
        open_real_robot(tmp_path / "nowhere")


def test_bad_images_name_their_row(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "episode_0.hdf5", 34)
    with h5py.File(path, "a") as file:
        file["observation/images/cam_high"][5] = np.frombuffer(b"no image", np.uint8)
        file["observation/images/cam_left_wrist"][6] = np.frombuffer(encoded(np.zeros((16, 16), np.uint16)), np.uint8)
        file["observation/images/cam_right_wrist"][7] = np.frombuffer(encoded(plain(1)[:8]), np.uint8)
    spans = open_dataset(tmp_path).episodes[0].videos
    for camera, match in (("cam_high", "row 5 holds no readable image"), ("cam_left_wrist", "row 6 holds an image of "
                          "mode I;16"), ("cam_right_wrist", "the sizes")):  # fmt: skip
        with pytest.raises(DataError, match=match):
            list(read_frames([spans[camera]]))


@pytest.mark.parametrize(("module", "package"), [("h5py", "h5py"), ("PIL", "pillow")])
def test_without_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    write_episode(tmp_path / "episode_0.hdf5", 34)
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == module:
            raise ImportError(f"No module named {name!r}")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=f"pip install {package}"):
        list(read_frames([open_dataset(tmp_path).episodes[0].videos["cam_high"]]))


def write_robotwin(path: Path, rows: int, width: int = 14, frames: int | None = None) -> None:
    """As RoboTwin writes an episode: JPEGs whose red and blue changed places, padded byte strings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    images = [encoded(red[..., ::-1], "JPEG") for _ in range(frames or rows)]
    with h5py.File(path, "w") as file:
        file["joint_action/vector"] = np.repeat(np.arange(rows, dtype=np.float64)[:, None], width, 1)
        for camera in ("head_camera", "left_camera", "right_camera", "front_camera"):
            longest = max(map(len, images))
            file.create_dataset(f"observation/{camera}/rgb", data=images, dtype=f"S{longest + 3}")


def test_robotwin(tmp_path: Path) -> None:
    root = tmp_path / "lift_pot/demo_clean"
    for number in (0, 1, 10, 2):
        write_robotwin(root / f"data/episode{number}.hdf5", 5 + number)
    data = fitted(open_dataset(root, CONFIG.robot), CONFIG.robot)
    assert [(e.index, e.length, e.task) for e in data.episodes] == [
        (0, 4, "lift pot"), (1, 5, "lift pot"), (2, 6, "lift pot"), (10, 14, "lift pot")]  # fmt: skip
    assert data.state[:5, 0].tolist() == [0, 1, 2, 3, 0] and data.action[:5, 0, 0].tolist() == [1, 2, 3, 4, 1]
    assert data.cameras == ("front_camera", "head", "left", "right")
    (images,) = read_frames([data.episodes[0].videos["head"]])
    assert images.shape == (4, 16, 16, 3) and images[0, 8, 8, 0] > 190 and images[0, 8, 8, 2] < 10
    assert not data.whole_windows
    assert open_robotwin(root / "data").episodes == open_robotwin(root).episodes


def test_robotwin_instructions(tmp_path: Path) -> None:
    root = tmp_path / "lift_pot/demo_clean"
    write_robotwin(root / "data/episode0.hdf5", 5)
    path = root / "instructions/episode0.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"seen": ["Lift the pot.", "Raise it."], "unseen": []}))
    assert open_dataset(root).episodes[0].task == "Lift the pot."
    for bad in ("{}", '{"seen": []}', '{"seen": [" "]}', "no JSON"):
        path.write_text(bad)
        with pytest.raises(DataError, match="instructions"):
            open_dataset(root)
    write_robotwin(root / "data/episode0.hdf5", 5, frames=4)
    with pytest.raises(DataError, match="must be one number"):
        open_dataset(root)
