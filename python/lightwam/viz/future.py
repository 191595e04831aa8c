# SPDX-License-Identifier: Apache-2.0
"""The futures that a policy imagines beside what happened: `lightwam viz future`.

A window's future is sampled as validation samples it (`lightwam.train.validation.imagined_future`), and compared as
there: both videos are decoded at the resolution that the policy is trained at.

Legend: K windows of an episode, F frames of a window, H W canvas, h w decoded video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightwam.arithmetic import default_arithmetic
from lightwam.data.dataset import Episode
from lightwam.data.episode_files import encoding_video
from lightwam.data.orientation import Images
from lightwam.data.windows import frame_stride
from lightwam.progress import progress_bar
from lightwam.train.validation import frame_errors, imagined_future, psnr
from lightwam.viz.heat import columns_for, evenly, panels, zoom_for
from lightwam.viz.policy import PolicyOnRecordings, open_policy
from lightwam.viz.recordings import (
    Recordings,
    check_pictures,
    file_name,
    open_recordings,
    require_positive_counts,
    title,
    writing,
)
from lightwam.viz.sheet import Line, draw_sheet

VIDEO_OPTIONS = {"crf": "18"}
_HELD = 2  # times that the last frame of a window is shown longer


@dataclass(frozen=True)
class Future:
    """One window.

    row: where it starts, in the data set. happened: uint8 [F, H, W, 3], as the policy would see it. decoded: the same
    through the VAE, at the resolution trained at, and imagined, uint8 [F, h, w, 3]. errors_F, still_F: mean squared
    errors of the imagined frames, and of the first frame if it stayed, against `decoded`.
    """

    row: int
    happened: Images
    decoded: Images
    imagined: Images
    errors_F: Tensor
    still_F: Tensor


@default_arithmetic
def show_futures(
    recordings: Recordings, checkpoint: Path, windows: int = 6, sampling_steps: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Write for each episode a picture and a video, and future.json; returns the latter's figures.

    Args:
        checkpoint: a policy's checkpoint folder.
        windows: most windows of an episode, one after the other where they fit.
        sampling_steps: Euler steps; the configuration's number if None.
        seed: of the first window's noise; the next ones have the next numbers.

    Raises:
        ConfigError: options that make no sense; `DataError`, `CheckpointError`, `InstructionError`: the recordings and
            the checkpoint cannot be read, or not together.
    """
    require_positive_counts(windows=windows, sampling_steps=1 if sampling_steps is None else sampling_steps)
    check_pictures(recordings, "future", checkpoint)
    opened = open_policy(checkpoint)
    dataset = open_recordings(recordings, opened.config)
    policy = PolicyOnRecordings(opened, dataset)
    starts = {episode.index: window_starts(policy, episode, windows) for episode in dataset.episodes}
    rate = Fraction(opened.config.robot.control_hz).limit_denominator(1000) / opened.config.video.stride
    with (
        writing(recordings, "future") as (folder, figures),
        progress_bar("imagining", sum(map(len, starts.values())), show=True) as advance,
    ):
        for episode in dataset.episodes:
            futures = imagine(policy, starts[episode.index], seed, sampling_steps, advance)
            future_sheet(folder / file_name("future", episode, ".png"), policy, episode, futures)
            write_video(folder / file_name("future", episode, ".mp4"), episode, futures, rate)
            figures["episodes"][str(episode.index)] = _figures(episode, futures)
    return figures


def window_starts(policy: PolicyOnRecordings, episode: Episode, most: int) -> list[int]:
    """Rows at which windows inside an episode start, one after the other and spread over it; its first row, where none
    is inside."""
    video = policy.config.video
    span = (video.num_frames - 1) * frame_stride(policy.config, policy.dataset.action_substeps)
    starts = range(episode.start, max(episode.stop - span, episode.start + 1), max(1, span))
    return [starts[place] for place in evenly(len(starts), most)]


def imagine(
    policy: PolicyOnRecordings, rows: Sequence[int], seed: int, sampling_steps: int | None,
    on_window: Callable[[int], None],
) -> list[Future]:  # fmt: skip
    """The futures of the windows that start at these rows; `on_window` is called with 1 after each."""
    made = []
    for number, row in enumerate(rows):
        batch = policy.batch([row], windows=True)
        imagined, true = imagined_future(policy.model, batch, policy.vae, seed + number, sampling_steps)
        errors, still = frame_errors(imagined, true), frame_errors(true[:, :, :1].expand_as(true), true)
        happened, decoded, drawn = (_as_images(video) for video in (batch["video"], true, imagined))
        made.append(Future(row, happened, decoded, drawn, errors, still))
        on_window(1)
    return made


def future_sheet(path: Path, policy: PolicyOnRecordings, episode: Episode, futures: Sequence[Future]) -> None:
    """Three lines a window: what happened, the same through the VAE, what was imagined; PSNR by frame below."""
    lines = []
    for future in futures:
        happened, decoded, imagined = _videos(future).items()
        values = psnr(future.errors_F)
        lines.append(Line(f"row {future.row - episode.start}: {happened[0]}", list(happened[1])))
        lines.append(Line(decoded[0], list(decoded[1])))
        labels = ["given", *(f"{value:.1f} dB" for value in values[1:])]
        lines.append(Line(imagined[0], list(imagined[1]), labels))

    def curves(axes: Any) -> None:
        later = range(1, len(futures[0].happened))
        for error, name in zip(_mean(futures), ("imagined", "the first frame, standing still"), strict=True):
            axes.plot(later, psnr(error)[1:], marker="o", linewidth=1, markersize=3, label=name)
        axes.set_title("PSNR (dB) by frame, of all these windows", fontsize=8, loc="left")
        axes.set_xticks(later)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)

    draw_sheet(path, title(policy.dataset, episode, "imagined futures"), lines, curves)


def write_video(path: Path, episode: Episode, futures: Sequence[Future], rate: Fraction) -> None:
    """The windows one after the other: what happened, the same through the VAE, what was imagined, with its PSNR."""
    size = futures[0].happened.shape[1:3]
    zoom = zoom_for(size[0])
    columns = columns_for(3, (zoom * size[0], zoom * size[1]))
    with encoding_video(path, rate, VIDEO_OPTIONS) as append:
        for future in futures:
            values = psnr(future.errors_F)
            frames = [*range(len(values)), *[len(values) - 1] * _HELD]
            for place in frames:
                told = f"imagined: {values[place]:.1f} dB" if place else "imagined: the first frame is given"
                names = (f"row {future.row - episode.start}, frame {place}: what happened", "through the VAE", told)
                images = [video[place] for video in _videos(future).values()]
                append(panels(list(zip(names, images, strict=True)), columns, zoom))


def _videos(future: Future) -> dict[str, Images]:
    """The three videos at the canvas's size."""
    factor = future.happened.shape[1] // future.decoded.shape[1]
    large = [video.repeat(factor, axis=1).repeat(factor, axis=2) for video in (future.decoded, future.imagined)]
    return {"what happened": future.happened, "through the VAE": large[0], "imagined": large[1]}


def _as_images(video_13FHW: Tensor) -> Images:
    pixels = (video_13FHW[0].permute(1, 2, 3, 0) / 2 + 0.5) * 255
    images: Images = pixels.round().clamp(0, 255).to(torch.uint8).numpy()
    return images


def _mean(futures: Sequence[Future]) -> tuple[Tensor, Tensor]:
    errors, still = [[getattr(one, name) for one in futures] for name in ("errors_F", "still_F")]
    return torch.stack(errors).mean(0), torch.stack(still).mean(0)


def _figures(episode: Episode, futures: Sequence[Future]) -> dict[str, Any]:
    def figures(error_F: Tensor) -> list[float]:
        return [round(value, 2) for value in psnr(error_F)]

    error_F, still_F = _mean(futures)
    return {
        "task": episode.task,
        "psnr_db_by_frame": figures(error_F),
        "psnr_db_by_frame_standing_still": figures(still_F),
        "windows": [
            {"row": one.row - episode.start, "psnr_db_by_frame": figures(one.errors_F)} for one in futures
        ],
    }  # fmt: skip
