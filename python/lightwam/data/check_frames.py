# SPDX-License-Identifier: Apache-2.0
"""Checks of a data set's frames: every one is decoded; their sizes, whether they move, and how they lie.

How they lie is told by a picture of the live robot (`Reference`): the data's first frames, turned upright as the
robot's file says, must look like it. Legend: n frames, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightwam.config import FLIPS, Camera, LightWAMConfig
from lightwam.data.dataset import Dataset, Episode, FrameSpan
from lightwam.data.findings import Finding, from_error
from lightwam.data.frames import Images, decode_image, read_frames
from lightwam.data.images import resize_images
from lightwam.errors import DataError
from lightwam.progress import counting_bar

_SIDE = 24
_LOOKED_AT = 20
_CODEC = 6  # grey levels
_LIKE = 0.4  # correlation of two pictures of one scene, at least
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """One frame of each camera as the live robot delivers it, uint8 RGB [h, w, 3]."""

    frames: Mapping[str, Images]

    @staticmethod
    def read(folder: Path) -> Reference:
        """`CAMERA.png` or `CAMERA.jpg` of a folder. Raises `DataError`: there is none, or one is unreadable."""
        paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
        if not paths:
            raise DataError(f"reference {folder} holds no CAMERA.png or CAMERA.jpg: save a frame of each camera there")
        try:
            found = {path.stem: path.read_bytes() for path in paths}
        except OSError as error:
            raise DataError(f"reference {folder} is unreadable ({error}): save the frames again") from error
        return Reference({n: decode_image(data, FrameSpan(folder / n, 0, 1, None, n), 0) for n, data in found.items()})


@dataclass
class _Seen:
    """What was seen of one camera."""

    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    still: list[int] = field(default_factory=list)
    dark: list[int] = field(default_factory=list)
    first: list[Floats] = field(default_factory=list)


def is_there(path: Path) -> bool:
    """Whether a file is there and holds something; `check_datasets` tells of those that are not."""
    return path.is_file() and path.stat().st_size > 0


def check_frames(
    dataset: Dataset, config: LightWAMConfig | None, reference: Reference | None = None, show: bool = False
) -> list[Finding]:
    """Decode all frames of the robot's cameras (of all, without a configuration), in order."""
    wanted = dataset.cameras if config is None else tuple(camera.name for camera in config.cameras.cameras)
    names = [name for name in wanted if name in dataset.cameras]
    seen: dict[str, _Seen] = {}
    findings: list[Finding] = []
    with counting_bar(f"decode {dataset.root.name}", show=show, stderr=True) as update:
        for i, name in enumerate(names):
            done = (i * len(dataset.episodes), len(names) * len(dataset.episodes))
            seen[name] = _Seen()
            for count, found in enumerate(_camera(dataset, name, seen[name]), 1):
                findings += found
                update(done[0] + count, done[1])
            findings += _of_camera(f"{dataset.root}, camera {name!r}", seen[name])
    if config is not None and reference is not None:
        for camera in config.cameras.cameras:
            if camera.name in seen and camera.name in reference.frames and seen[camera.name].first:
                findings += _orientation(f"{dataset.root}, camera {camera.name!r}", camera, seen, reference)
    return findings


def _camera(dataset: Dataset, name: str, seen: _Seen) -> Iterator[list[Finding]]:
    """The faults of each episode's frames, in the order of the files."""
    there = [episode for episode in dataset.episodes if is_there(episode.videos[name].path)]
    waiting = sorted(there, key=lambda e: (str(e.videos[name].path), e.videos[name].first))
    while waiting:
        stream = read_frames([episode.videos[name] for episode in waiting])
        for position, episode in enumerate(waiting):
            try:
                images = next(stream)
            except DataError as error:
                where = f"{dataset.root}, episode {episode.index}, camera {name!r}"
                yield [from_error(error, where, "video")]
                waiting = waiting[position + 1 :]
                break
            _look(dataset, episode, images, seen)
            yield []
        else:
            return


def _look(dataset: Dataset, episode: Episode, images: Images, seen: _Seen) -> None:
    size = images.shape[1], images.shape[2]
    seen.sizes.setdefault(size, episode.index)
    if len(seen.first) < _LOOKED_AT:
        seen.first.append(_small(images[:1]))
    state = dataset.state[episode.start : episode.stop]
    if len(images) > 3 and _still(images) and np.ptp(state, axis=0).max() > 1e-4:
        seen.still.append(episode.index)
    if images.max() < 16:
        seen.dark.append(episode.index)


def _still(images: Images) -> bool:
    """Whether nothing changes but what a codec does."""
    seen = images[:, ::2, ::2]
    return all(int(np.abs(image.astype(np.int16) - seen[0]).max()) <= _CODEC for image in seen)


def _of_camera(where: str, seen: _Seen) -> Iterator[Finding]:
    if len(seen.sizes) > 1:
        told = ", ".join(f"{h}x{w} (episode {index})" for (h, w), index in list(seen.sizes.items())[:4])
        yield Finding("warning", "video", where, f"its frames have several sizes, {told}", "record with one setting")
    if seen.dark:
        yield Finding("warning", "video", where, f"it is black in the episodes {seen.dark[:5]}", "leave them out")
    if still := [index for index in seen.still if index not in seen.dark]:
        what = f"its picture never changes in the episodes {still[:5]}, while the state does"
        yield Finding("warning", "video", where, what, "leave them out: the camera stood still")


def _small(images: Images) -> Floats:
    """The mean of some frames as [side, side, 3], 0..1."""
    return resize_images(images, _SIDE, _SIDE).mean(0).permute(1, 2, 0).numpy()


def _orientation(where: str, camera: Camera, seen: Mapping[str, _Seen], reference: Reference) -> Iterator[Finding]:
    live = _flip(_small(reference.frames[camera.name][None]), FLIPS[camera.on_robot])
    data = np.mean(seen[camera.name].first, axis=0)
    scores = {name: _alike(_flip(data, flips), live) for name, flips in FLIPS.items()}
    best = max(scores, key=lambda name: scores[name])
    for name, other in seen.items():
        score = _alike(np.mean(other.first, axis=0), live) if other.first else 0.0
        if name != camera.name and score > scores[best] + 0.2:
            what = f"the reference looks like camera {name!r} ({score:.2f}), not like this one ({scores[best]:.2f})"
            yield Finding("error", "cameras", where, what, "exchange data_name of the two cameras")
            return
    if scores[best] > max(_LIKE, scores[camera.in_data] + 0.1):
        what = (
            f"its frames look like the reference when they are taken to be {best} (correlation {scores[best]:.2f}), "
            f"not {camera.in_data} ({scores[camera.in_data]:.2f})"
        )
        yield Finding("error", "orientation", where, what, f"set in_data of the camera to {best}, or correct on_robot")
        return
    upright = _flip(data, FLIPS[camera.in_data])
    if (colours := _alike_colours(upright, live)) < -0.5:
        what = f"red and blue are exchanged against the reference (correlation {colours:.2f})"
        yield Finding("error", "colours", where, what, "record RGB, or save the reference as RGB")


def _flip(image: Floats, flips: tuple[bool, bool]) -> Floats:
    image = image[::-1] if flips[0] else image
    return image[:, ::-1] if flips[1] else image


def _alike(a: Floats, b: Floats) -> float:
    return _correlation(a.mean(-1), b.mean(-1))


def _alike_colours(a: Floats, b: Floats) -> float:
    return _correlation(a[..., 0] - a[..., 2], b[..., 0] - b[..., 2])


def _correlation(a: Any, b: Any) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / norm) if norm > 1e-6 else 0.0
