# SPDX-License-Identifier: Apache-2.0
"""Observations to quantise with: recorded ones spread over a data set, or random ones of an engine's own shape.

Recordings are split by episode: layers are judged on calibration episodes, the whole chunk on held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightwam.arithmetic import default_arithmetic
from lightwam.config import LightWAMConfig, RobotConfig
from lightwam.engine.dtypes import Array
from lightwam.engine.graph import Graph
from lightwam.engine.inputs import RANDOM_INSTRUCTION, Observation, random_observation
from lightwam.errors import DataError
from lightwam.words import clean_instruction

if TYPE_CHECKING:
    from lightwam.data.dataset import Dataset

HELD_OUT_FRACTION = 0.2


@dataclass(frozen=True)
class Observations:
    """Two disjoint sets, and one line that says where they come from."""

    calibration: tuple[Observation, ...]
    held_out: tuple[Observation, ...]
    source: str


@default_arithmetic
def random_observations(graph: Graph, calibration: int, held_out: int, seed: int) -> Observations:
    """States of a normal distribution in normalised units, images or latents of noise; numbers follow from the seed."""
    rng = np.random.default_rng(seed)
    known = [entry["text"] for entry in graph.policy["instructions"]]
    text = known[0] if known else RANDOM_INSTRUCTION
    made = tuple(Observation(text, **random_observation(graph.policy, rng)) for _ in range(calibration + held_out))
    source = f"random observations (noise, not recorded), seed {seed}"
    return Observations(made[:calibration], made[calibration:], source)


@default_arithmetic
def recorded_observations(
    graph: Graph, folder: Path, calibration: int, held_out: int, seed: int, on_frame: Callable[[int], None]
) -> Observations:
    """Observations of a data set; `on_frame` is called with 1 after each frame that was kept.

    Raises `DataError` when the recording's cameras, state width or tasks do not fit the engine (both are named), or
    when there are fewer than two episodes, or too few rows to choose from.
    """
    from lightwam.data.sources import open_dataset
    from lightwam.data.windows import rows_of, split_episodes

    dataset = open_dataset(folder, robot_of(graph))
    cameras = check_recording(graph, dataset)
    if len(dataset.episodes) < 2:
        raise DataError(f"data set {folder} has one episode: calibration and held-out need one each, record another")
    chosen = []
    for name, episodes, count in zip(
        ("calibration", "held-out"),
        split_episodes(dataset, HELD_OUT_FRACTION, seed),
        (calibration, held_out),
        strict=True,
    ):
        rows = rows_of(episodes)
        if len(rows) < count:
            raise DataError(f"data set {folder} has {len(rows)} {name} rows: request at most as many, not {count}")
        chosen.append(rows[(np.arange(count) * len(rows) + len(rows) // 2) // count])
    frames = turned_as_live(graph, _read_rows(dataset, cameras, np.concatenate(chosen), on_frame))
    source = f"{len(dataset.episodes)} recorded episodes of {folder.name}, split by episode with seed {seed}"
    return Observations(tuple(frames[:calibration]), tuple(frames[calibration:]), source)


def check_recording(graph: Graph, dataset: Dataset) -> tuple[str, ...]:
    """The engine's cameras. Raises `DataError` naming both sides unless the recording has them, its width and tasks."""
    policy, root = graph.policy, dataset.root
    if policy["starts_at"] != "images":
        raise DataError(f"engine {graph.name} starts at latents, data set {root} has images: use random observations")
    cameras = tuple(camera["name"] for camera in policy["cameras"])
    if not set(cameras) <= set(dataset.cameras):
        raise DataError(
            f"engine {graph.name} has cameras {list(cameras)}, data set {root} has {list(dataset.cameras)}: "
            "give recordings of the engine's cameras"
        )
    width = dataset.state.shape[1]
    if width != policy["state_width"]:
        raise DataError(
            f"engine {graph.name} has state width {policy['state_width']}, data set {root} has {width}: "
            "give recordings of the engine's robot"
        )
    known = {clean_instruction(entry["text"]) for entry in policy["instructions"]}
    unknown = sorted({clean_instruction(episode.task) for episode in dataset.episodes} - known)
    if unknown and policy["text_encoder"] is None:
        raise DataError(
            f"engine {graph.name} knows the instructions {sorted(known)[:3]}, data set {root} has {unknown[:3]}: "
            "give recordings of a known task"
        )
    return cameras


def robot_of(graph: Graph) -> RobotConfig | None:
    """The robot of an engine that tells its configuration."""
    config = graph.provenance.get("config")
    return None if config is None else LightWAMConfig.from_dict(config).robot


def turned_as_live(graph: Graph, seen: list[Observation]) -> list[Observation]:
    """Images turned to lie as the live robot's do, where the engine tells its configuration."""
    from lightwam.data.orientation import as_on_robot

    if (robot := robot_of(graph)) is None:
        return seen
    cameras = {camera.name: camera for camera in robot.cameras}
    return [
        replace(x, images={name: as_on_robot(image[None], cameras[name])[0] for name, image in x.images.items()})
        if x.images is not None
        else x
        for x in seen
    ]


def _read_rows(
    dataset: Dataset, cameras: Sequence[str], rows: Array, on_frame: Callable[[int], None]
) -> list[Observation]:
    """The observations of these rows, in their order. Each video file is decoded once."""
    from lightwam.data.frames import read_frames

    starts = [episode.start for episode in dataset.episodes]
    episodes = [dataset.episodes[np.searchsorted(starts, row, "right") - 1] for row in rows]
    images: list[dict[str, NDArray[np.uint8]]] = [{} for _ in rows]
    for camera in cameras:
        spans = []  # (span of one frame, index of the observation), in the order of files and frames
        for index, (row, episode) in enumerate(zip(rows, episodes, strict=True)):
            video = episode.videos[camera]
            spans.append((replace(video, first=video.first + int(row) - episode.start, count=1), index))
        spans.sort(key=lambda entry: (str(entry[0].path), entry[0].first))
        for (_, index), image in zip(spans, read_frames([span for span, _ in spans]), strict=True):
            images[index][camera] = image[0]
            on_frame(1)
    return [
        Observation(episode.task, dataset.state[row], image)
        for row, episode, image in zip(rows, episodes, images, strict=True)
    ]
