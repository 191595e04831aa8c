# SPDX-License-Identifier: Apache-2.0
"""Action chunks that a policy predicts beside the recorded actions: `lightwam viz actions`. No PyTorch for engines.

Everything is in the robot's units, the recorded gripper too. A chunk predicted at a row is compared with the recorded
actions from that row on; steps past the episode's end count nowhere.

Legend: N chunks, H horizon, A action width, T control steps of an episode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lightwam.arithmetic import default_arithmetic
from lightwam.config import LightWAMConfig
from lightwam.data.dataset import Dataset, Episode
from lightwam.data.frames import read_frames
from lightwam.data.orientation import Images, as_on_robot
from lightwam.data.windows import WindowIndex
from lightwam.errors import EngineError
from lightwam.progress import progress_bar
from lightwam.viz.recordings import (
    Recordings,
    check_pictures,
    drawn,
    file_name,
    open_recordings,
    require_positive_counts,
    title,
    writing,
)

Floats = npt.NDArray[np.floating[Any]]
_COLUMNS = 4


class ChunkSource(Protocol):
    """A policy that predicts a chunk at rows of recordings."""

    config: LightWAMConfig

    def chunks(self, dataset: Dataset, episode: Episode, rows: Sequence[int]) -> Iterator[Floats]:
        """For each row the chunk [H, A] in the robot's units."""
        ...


@dataclass(frozen=True)
class EpisodeChunks:
    """What was predicted and recorded in an episode, in the robot's units.

    steps_N: control step of the episode at which each chunk begins. predicted, recorded [N, H, A]; inside [N, H]: true
    up to the episode's end. executed [T, A]: the recording.
    """

    episode: Episode
    steps_N: npt.NDArray[np.int64]
    predicted_NHA: Floats
    recorded_NHA: Floats
    inside_NH: npt.NDArray[np.bool_]
    executed_TA: Floats


class EngineChunks:
    """An engine file, run by the C++ runtime."""

    def __init__(self, path: Path, device: str = "cpu", threads: int | None = None) -> None:
        """Raises `EngineError` where the file does not tell its configuration, or starts at latents."""
        from lightwam.runtime import Policy

        self.policy = Policy(path, device=device, threads=threads)
        about = self.policy.metadata
        if about["policy"]["starts_at"] != "images":
            raise EngineError(f"engine {path} starts at latents, recordings hold images: export it from the images on")
        document = about.get("provenance", {}).get("config")
        if document is None:
            raise EngineError(f"engine {path} does not tell its configuration: export it again from its checkpoint")
        self.config = LightWAMConfig.from_dict(document)

    def chunks(self, dataset: Dataset, episode: Episode, rows: Sequence[int]) -> Iterator[Floats]:
        """For each row the chunk [H, A]. Raises `InstructionError`, `ObservationError`, `DataError`."""
        self.policy.set_instruction(episode.task)
        cameras = {camera.name: camera for camera in self.config.robot.cameras}
        for row, images in zip(rows, frames_at(episode, tuple(cameras), rows), strict=True):
            turned = {name: as_on_robot(image[None], cameras[name])[0] for name, image in images.items()}
            yield self.policy.infer({"images": turned, "state": dataset.state[row]}).actions


class CheckpointChunks:
    """A checkpoint folder, run by PyTorch."""

    def __init__(self, folder: Path) -> None:
        from lightwam.viz.policy import open_policy

        self.checkpoint = open_policy(folder)
        self.config = self.checkpoint.config

    def chunks(self, dataset: Dataset, episode: Episode, rows: Sequence[int]) -> Iterator[Floats]:
        """For each row the chunk [H, A]."""
        from lightwam.viz.policy import BATCH, PolicyOnRecordings

        policy = PolicyOnRecordings(self.checkpoint, dataset)
        for start in range(0, len(rows), BATCH):
            batch = policy.batch(rows[start : start + BATCH])
            normalised = policy.model.predict_actions(*policy.inputs(batch)).numpy()
            yield from self.config.robot.to_robot(policy.samples.action.backward(normalised))


@default_arithmetic
def show_actions(
    recordings: Recordings, policy: Path, every: int = 1, device: str = "cpu", threads: int | None = None
) -> dict[str, Any]:
    """Write a picture of each episode and actions.json; returns the latter's figures.

    Args:
        policy: an engine file, or a policy's checkpoint folder.
        every: predict at every so many-th row of the recordings.
        device, threads: of an engine, as of `lightwam.runtime.Policy`.

    Raises:
        ConfigError: options that make no sense; `EngineError`, `CheckpointError`, `DataError`, `InstructionError`: the
            recordings and the policy cannot be read, or not together.
    """
    require_positive_counts(every=every)
    check_pictures(recordings, "actions", policy)
    source: ChunkSource = CheckpointChunks(policy) if policy.is_dir() else EngineChunks(policy, device, threads)
    dataset = open_recordings(recordings, source.config)
    rows = {episode.index: range(episode.start, episode.stop, every) for episode in dataset.episodes}
    made: list[EpisodeChunks] = []
    with writing(recordings, "actions") as (folder, figures):
        with progress_bar("predicting", sum(map(len, rows.values())), show=True) as advance:
            for episode in dataset.episodes:
                made.append(episode_chunks(source, dataset, episode, rows[episode.index], advance))
                draw_chunks(folder / file_name("actions", episode, ".png"), source.config, dataset, made[-1])
        figures.update(_figures(source.config, made))
    return figures


def episode_chunks(
    source: ChunkSource, dataset: Dataset, episode: Episode, rows: Sequence[int], on_row: Callable[[int], None]
) -> EpisodeChunks:
    """Predicted and recorded chunks of these rows; `on_row` is called with 1 after each."""
    robot, substeps = source.config.robot, dataset.action_substeps
    windows = WindowIndex(dataset, source.config, whole=False).windows(np.asarray(rows))
    predicted = []
    for chunk in source.chunks(dataset, episode, rows):
        predicted.append(chunk)
        on_row(1)
    length = episode.length if episode.action_rows is None else episode.action_rows
    executed = dataset.action[episode.start : episode.start + length].reshape(-1, dataset.action.shape[2])
    return EpisodeChunks(
        episode, (np.asarray(rows) - episode.start) * substeps, np.stack(predicted),
        robot.to_robot(windows.action_NHA), ~windows.action_is_pad_NH, robot.to_robot(executed),
    )  # fmt: skip


def frames_at(episode: Episode, cameras: Sequence[str], rows: Sequence[int]) -> Iterator[Mapping[str, Images]]:
    """For each row (rising, of the data set) the image [h, w, 3] of each camera; every video is decoded once."""

    def spans(camera: str) -> Iterator[Any]:
        video = episode.videos[camera]
        for row in rows:
            place = row - episode.start
            first = video.first + (place if video.picks is None else video.picks[place])
            yield replace(video, first=first, count=1, picks=None)

    streams = [read_frames(spans(camera)) for camera in cameras]
    for images in zip(*streams, strict=True):
        yield {camera: image[0] for camera, image in zip(cameras, images, strict=True)}


def errors_by_step(chunks: Sequence[EpisodeChunks]) -> Floats:
    """Mean absolute error of each step of a chunk, by dimension [H, A], in the robot's units; NaN where no chunk of
    these has the step inside its episode."""
    error_NHA = np.concatenate([np.abs(one.predicted_NHA.astype(np.float64) - one.recorded_NHA) for one in chunks])
    inside_NH1 = np.concatenate([one.inside_NH for one in chunks])[..., None]
    count = inside_NH1.sum(0)
    total = (error_NHA * inside_NH1).sum(0)
    mean_HA: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean_HA


def deviations(chunks: Sequence[EpisodeChunks]) -> Floats:
    """Standard deviation of the recorded actions [A]: the error that would be made by always acting as on average is
    about as large."""
    varies_A: Floats = np.concatenate([one.executed_TA for one in chunks]).astype(np.float64).std(0)
    return varies_A


def draw_chunks(path: Path, config: LightWAMConfig, dataset: Dataset, chunks: EpisodeChunks) -> None:
    """One panel a dimension: the recording in black, chunks in colour, the steps that would be executed in bold; then
    the error by step, as a multiple of what each dimension varies."""
    names = [dimension.name for dimension in config.robot.action]
    shown = _shown(chunks.steps_N, config.replan_steps)
    lines = -(-(len(names) + 1) // _COLUMNS)

    def fill(figure: Any) -> None:
        figure.suptitle(title(dataset, chunks.episode, "predicted and recorded actions"), fontsize=9)
        axes = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
        for place, (one, dimension) in enumerate(zip(axes, config.robot.action, strict=False)):
            one.plot(chunks.executed_TA[:, place], color="black", linewidth=1.2, label="recorded")
            for number, chunk in enumerate(shown):
                inside = int(chunks.inside_NH[chunk].sum())
                steps = chunks.steps_N[chunk] + np.arange(inside)
                values, colour = chunks.predicted_NHA[chunk, :inside, place], f"C{number % 2}"
                one.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
                bold = slice(0, config.replan_steps)
                one.plot(steps[bold], values[bold], color=colour, linewidth=1.6, alpha=0.9)
            unit = "" if dimension.unit == "1" else f" ({dimension.unit})"
            one.set_title(f"{dimension.name}{unit}", fontsize=8, loc="left")
        _draw_errors(axes[len(names)], config, chunks)
        for one in axes[: len(names) + 1]:
            one.tick_params(labelsize=6)
            one.grid(alpha=0.3)
        for one in axes[len(names) + 1 :]:
            one.set_axis_off()
        figure.supxlabel(
            "control step (black: recorded; colours: predicted chunks, the steps before the next chunk in bold)",
            fontsize=8,
        )

    drawn(path, fill, (4.0 * _COLUMNS, 2.4 * lines + 0.8))


def _draw_errors(axes: Any, config: LightWAMConfig, chunks: EpisodeChunks) -> None:
    error_HA, varies_A = errors_by_step([chunks]), deviations([chunks])
    for place, dimension in enumerate(config.robot.action):
        if varies_A[place] > 1e-9:
            axes.plot(error_HA[:, place] / varies_A[place], linewidth=1, label=dimension.name)
    axes.axvline(config.replan_steps - 0.5, color="0.4", linestyle=":", linewidth=1)
    axes.set_ylim(0, 1.4 * axes.get_ylim()[1])  # room for the legend
    axes.set_title("error by step of the chunk, in deviations", fontsize=8, loc="left")
    axes.legend(fontsize=5, ncols=2, loc="upper left")


def _shown(steps_N: npt.NDArray[np.int64], replan_steps: int) -> list[int]:
    """The chunks that would follow one another: the first, and each that begins when the one before is executed."""
    shown = [0]
    for number in range(1, len(steps_N)):
        if steps_N[number] >= steps_N[shown[-1]] + replan_steps:
            shown.append(number)
    return shown


def _figures(config: LightWAMConfig, chunks: Sequence[EpisodeChunks]) -> dict[str, Any]:
    error_HA, varies_A = errors_by_step(chunks), deviations(chunks)
    figures: dict[str, Any] = {
        "episodes": {str(one.episode.index): one.episode.task for one in chunks},
        "chunks": sum(len(one.steps_N) for one in chunks),
        "replan_steps": config.replan_steps,
        "mean_absolute_error": {},
    }
    for place, dimension in enumerate(config.robot.action):
        by_step = error_HA[:, place]
        figures["mean_absolute_error"][dimension.name] = {
            "unit": dimension.unit,
            "by_step": [None if np.isnan(value) else round(float(value), 6) for value in by_step],
            "executed_steps": round(float(np.nanmean(by_step[: config.replan_steps])), 6),
            "recorded_deviation": round(float(varies_A[place]), 6),
        }
    return figures
