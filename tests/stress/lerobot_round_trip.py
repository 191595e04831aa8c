# SPDX-License-Identifier: Apache-2.0
"""LeRobot round trips: a set written by LeRobot's own package and one by our recorder, each read by both, row by row.

Run it where lightwam and the package `lerobot-dataset` (0.4) are installed beside PyTorch:

    PYTHONPATH=python:tests/python python tests/stress/lerobot_round_trip.py [--keep FOLDER]

It prints one line a set and exits 1 on the first row that differs. `--keep` leaves the package's set in a folder; that
is how tests/data/lerobot_package was made. Where the package has no video decoder that works here (torchcodec, or
torchvision with VideoReader), its frames are decoded by PyAV at the times that it asks for.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from helpers.arm_set import CAMERAS, JOINTS, TASKS, actions, picture, states
from helpers.dataset_fixture import write_v3 as write_ours
from lightwam.data.check import check_folders
from lightwam.data.frames import read_frames
from lightwam.data.sources import open_dataset

LENGTHS, SIDE, HZ = (14, 11, 13), 64, 30
FRAMES_EQUAL = 1.01 / 255  # decoders may differ by a grey level


def package() -> Any:
    """LeRobot's reader and writer."""
    try:
        import torchvision
    except (ImportError, RuntimeError):  # not there, or built for another PyTorch: only its transforms are wanted
        torchvision = without_torchvision()
    from ledataset.datasets import lerobot_dataset, video_utils

    if importlib.util.find_spec("torchcodec") is None and not hasattr(torchvision.io, "VideoReader"):
        video_utils.decode_video_frames = lerobot_dataset.decode_video_frames = frames_at
    lerobot_dataset.get_safe_version = lambda name, version: version  # nothing is fetched
    return lerobot_dataset.LeRobotDataset


def without_torchvision() -> Any:
    """Enough of torchvision for the package's import."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    names = ("torchvision", "torchvision.io", "torchvision.transforms", "torchvision.transforms.v2",
             "torchvision.transforms.v2.functional")  # fmt: skip
    for name in names:
        parent, _, last = name.rpartition(".")
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
        if parent:
            setattr(sys.modules[parent], last, sys.modules[name])
    sys.modules["torchvision.transforms.v2"].Transform = torch.nn.Module  # type: ignore[attr-defined]
    sys.modules["torchvision.transforms"].ToTensor = lambda: _to_tensor  # type: ignore[attr-defined]
    return sys.modules["torchvision"]


def _to_tensor(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255.0


def frames_at(path: Path, timestamps: list[float], tolerance: float, backend: str | None = None) -> torch.Tensor:
    """float [n, 3, h, w] in 0..1 of the frames at these times."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        found = {float(f.pts * stream.time_base): f.to_ndarray(format="rgb24") for f in container.decode(stream)}
    times = np.array(sorted(found))
    near = [times[np.abs(times - t).argmin()] for t in timestamps]
    assert np.abs(np.array(near) - timestamps).max() < max(tolerance, 1e-3), (near, timestamps)
    return torch.from_numpy(np.stack([found[t] for t in near])).permute(0, 3, 1, 2) / 255.0


def write_theirs(dataset_class: Any, root: Path, videos: bool) -> Path:
    """Three episodes of the arm by the package."""
    kind = "video" if videos else "image"
    names = [f"{joint}.pos" for joint in JOINTS]
    features = {
        f"observation.images.{c}": {"dtype": kind, "shape": (SIDE, SIDE, 3), "names": ["height", "width", "channels"]}
        for c in CAMERAS
    }
    features |= {key: {"dtype": "float32", "shape": (6,), "names": names} for key in ("observation.state", "action")}
    made = dataset_class.create("tests/arm", HZ, features, robot_type="so101_follower", root=root, use_videos=videos)
    for episode, length in enumerate(LENGTHS):
        state, action = states(episode, length), actions(episode, length)
        for row in range(length):
            images = {f"observation.images.{c}": big(picture(episode, row, k)) for k, c in enumerate(CAMERAS)}
            made.add_frame(
                {"observation.state": state[row], "action": action[row], "task": TASKS[episode % 2], **images}
            )
        made.save_episode()
    made.finalize()
    return root


def big(image: np.ndarray) -> np.ndarray:
    return image.repeat(SIDE // image.shape[0], 0).repeat(SIDE // image.shape[1], 1)


def compare(dataset_class: Any, root: Path, title: str) -> None:
    """Every row as the package gives it against every row as we do."""
    theirs, ours = dataset_class("tests/arm", root=root), open_dataset(root)
    assert len(theirs) == len(ours.state) and theirs.num_episodes == len(ours.episodes), (len(theirs), len(ours.state))
    assert {f"observation.images.{camera}" for camera in ours.cameras} == set(theirs.meta.camera_keys)
    worst, row = 0.0, 0
    for episode in ours.episodes:
        images = {camera: next(read_frames([episode.videos[camera]])) for camera in ours.cameras}
        for place in range(episode.length):
            item = theirs[row]
            assert int(item["episode_index"]) == episode.index and item["task"] == episode.task, (row, item["task"])
            assert torch.equal(item["observation.state"], torch.from_numpy(ours.state[row])), row
            given = torch.as_tensor(np.asarray(item["action"])).reshape(ours.action[row].shape)
            assert torch.equal(given, torch.from_numpy(ours.action[row])), row
            for camera, frames in images.items():
                mine = torch.from_numpy(frames[place]).permute(2, 0, 1) / 255.0
                worst = max(worst, float((item[f"observation.images.{camera}"] - mine).abs().max()))
            row += 1
    assert worst <= FRAMES_EQUAL, worst
    wrong = [str(finding) for finding in check_folders([root]) if finding.severity != "note"]
    assert not wrong, wrong
    print(f"{title}: {len(ours.episodes)} episodes, {row} rows, frames within {255 * worst:.2f} grey levels: equal")


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", type=Path)
    keep = parser.parse_args().keep
    dataset_class = package()
    with tempfile.TemporaryDirectory() as folder:
        for videos in (True, False):
            root = write_theirs(dataset_class, Path(folder) / f"package-{videos}", videos)
            compare(dataset_class, root, f"written by lerobot-dataset, {'videos' if videos else 'image columns'}")
            if keep is not None and videos:
                shutil.copytree(root, keep)
        compare(dataset_class, write_ours(Path(folder) / "ours"), "written by lightwam record's writer")
    return 0


if __name__ == "__main__":
    sys.exit(main())
