# SPDX-License-Identifier: Apache-2.0
"""Pictures of a data set (`lightwam data show`): frames of an episode, histograms, actions against what follows.

Legend: n rows of an episode, K frames that are shown, D width of a field.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightwam.arithmetic import default_arithmetic
from lightwam.config import LightWAMConfig
from lightwam.data.check_motion import LAGS, Pair, follow, pairs
from lightwam.data.check_rows import fields
from lightwam.data.dataset import Dataset, Episode
from lightwam.data.frames import Images, read_frames
from lightwam.data.images import canvas_uint8
from lightwam.errors import DataError
from lightwam.extras import how_to_install
from lightwam.pictures import can_draw, draw

FRAMES, NUMBERS, MOTION = "frames.png", "numbers.png", "motion.png"
_COLUMNS = 6


@default_arithmetic
def show_dataset(
    dataset: Dataset, folder: Path, config: LightWAMConfig | None = None, episode: int | None = None, frames: int = 8
) -> list[Path]:
    """Draw `frames.png`, `numbers.png` and `motion.png` into a folder; returns what was drawn.

    Args:
        dataset: its cameras under the robot's names, where there is a configuration.
        folder: is made if need be.
        config: the canvas, the names and the gripper; None: cameras and columns as they are.
        episode: its number; None: the first.
        frames: so many frames of it, from its first to its last.

    Raises:
        DataError: there is no such episode, a frame cannot be read, or matplotlib is missing or fails.
    """
    if not can_draw():
        raise DataError(f"pictures need matplotlib, which is not installed: {how_to_install(('train',))}")
    if frames < 1:
        raise DataError(f"frames is {frames}: show at least 1")
    numbers = {one.index: one for one in dataset.episodes}
    chosen = dataset.episodes[0] if episode is None else numbers.get(episode)
    if chosen is None:
        raise DataError(
            f"data set {dataset.root} has no episode {episode}: it has {len(numbers)}, up to {max(numbers)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [
        _frames(dataset, folder / FRAMES, chosen, config, frames),
        _numbers(dataset, folder / NUMBERS, config),
        _motion(dataset, folder / MOTION, chosen, config),
    ]
    return [path for path in drawn if path is not None]


def _frames(dataset: Dataset, path: Path, episode: Episode, config: LightWAMConfig | None, count: int) -> Path:
    """Each camera's frames as they lie in the data, and the canvas as the policy sees it."""
    wanted = dataset.cameras if config is None else tuple(camera.name for camera in config.cameras.cameras)
    rows = np.unique(np.linspace(0, episode.length - 1, count).round().astype(int))
    images = {name: next(read_frames([episode.videos[name]]))[rows] for name in wanted}
    strips: list[tuple[str, Images]] = [(f"{name} in the data", image) for name, image in images.items()]
    if config is not None:
        strips.append(("canvas, as the policy sees it", canvas_uint8(images, config.cameras)))
    heights = [2.0 * strip.shape[1] / strip.shape[2] for _, strip in strips]

    def fill(figure: Any) -> None:
        figure.suptitle(f"{dataset.root.name}, episode {episode.index}: {episode.task}", fontsize=9)
        axes = figure.subplots(len(strips), len(rows), squeeze=False, gridspec_kw={"height_ratios": heights})
        for line, (name, strip) in zip(axes, strips, strict=True):
            for place, (one, image) in enumerate(zip(line, strip, strict=True)):
                one.imshow(image)
                one.set_xticks([])
                one.set_yticks([])
                one.set_title(name if place == 0 else f"row {rows[place]}", fontsize=7, loc="left")

    return _drawn(path, fill, (2.0 * len(rows), sum(heights) + 0.35 * len(strips) + 0.4))


def _numbers(dataset: Dataset, path: Path, config: LightWAMConfig | None) -> Path:
    """A histogram of every number; dotted: quantiles of 1 % and 99 %; red and green: the gripper closed and open."""
    robot = None if config is None else config.robot
    parts = [(f"{f} {n}", rows[:, i]) for f, rows, names, _ in fields(dataset, robot) for i, n in enumerate(names)]
    lines = -(-len(parts) // _COLUMNS)

    def fill(figure: Any) -> None:
        figure.suptitle(f"{dataset.root.name}: {len(dataset.episodes)} episodes, {len(dataset.state)} rows", fontsize=9)
        axes = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
        for one, (name, values) in zip(axes, parts, strict=False):
            one.hist(values, bins=40, color="0.5")
            for quantile in np.quantile(values, (0.01, 0.99)):
                one.axvline(quantile, color="0.2", linestyle=":", linewidth=1)
            if robot is not None and robot.gripper is not None and name == f"action {robot.gripper.dimension}":
                one.axvline(robot.gripper.data_closed, color="tab:red", linewidth=1)
                one.axvline(robot.gripper.data_open, color="tab:green", linewidth=1)
            one.set_title(f"{name}\n{values.min():.3g} to {values.max():.3g}", fontsize=7)
            one.set_yticks([])
            one.tick_params(labelsize=6)
        for one in axes[len(parts) :]:
            one.set_axis_off()

    return _drawn(path, fill, (2.0 * _COLUMNS, 1.5 * lines + 0.5))


def _motion(dataset: Dataset, path: Path, episode: Episode, config: LightWAMConfig | None) -> Path | None:
    """Actions and the states that they lead to, through the episode; the title has the rows until they agree best."""
    together = _pairs(dataset, config)
    if not together:
        return None
    lines = -(-len(together) // 3)
    span = slice(episode.start, episode.stop)

    def fill(figure: Any) -> None:
        figure.suptitle(f"{dataset.root.name}, episode {episode.index}: actions (orange), states (blue)", fontsize=9)
        axes = figure.subplots(lines, 3, squeeze=False).ravel()
        for one, pair in zip(axes, together, strict=False):
            state = dataset.state[span, pair.state]
            action = dataset.action[span, :, pair.action]
            correlation, _ = follow(dataset, pair, np.inf)
            best = int(np.argmax(np.abs(correlation)))
            one.plot(np.diff(state) if pair.delta else state, color="tab:blue", linewidth=1)
            right = one.twinx() if pair.delta else one
            right.tick_params(labelsize=6)
            right.plot(action.sum(1) if pair.delta else action[:, -1], color="tab:orange", linewidth=1)
            told = f"{correlation[best]:+.2f} after {LAGS[best]} rows" if correlation.any() else "too few rows"
            one.set_title(f"{pair.name}{' (changes)' if pair.delta else ''}: correlation {told}", fontsize=7)
            one.tick_params(labelsize=6)
        for one in axes[len(together) :]:
            one.set_axis_off()

    return _drawn(path, fill, (12.0, 1.8 * lines + 0.5))


def _pairs(dataset: Dataset, config: LightWAMConfig | None) -> Sequence[Pair]:
    widths = dataset.state.shape[1], dataset.action.shape[2]
    if config is not None and widths == (config.state_dim, config.action_dim):
        return pairs(config.robot)
    return [Pair(str(i), i, i, False) for i in range(widths[1])] if widths[0] == widths[1] else []


def _drawn(path: Path, fill: Any, size: tuple[float, float]) -> Path:
    if not draw(path, fill, size=size, dpi=120):
        raise DataError(f"picture {path} could not be drawn: the log says why")
    return path
