# SPDX-License-Identifier: Apache-2.0
"""Where the learned-query poolers of a policy look in recordings: `lightwam viz attention`.

A map is a pooler's softmax weights over the token grid, the mean over its heads, its queries averaged with their merge
weights: `LightWAM.pooler_attention`, of the recorded frame, state and instruction.

Legend: N rows, r c token grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightwam.arithmetic import default_arithmetic
from lightwam.data.dataset import Dataset, Episode
from lightwam.data.episode_files import encoding_video
from lightwam.data.orientation import Images
from lightwam.errors import ConfigError
from lightwam.model import LightWAM
from lightwam.progress import progress_bar
from lightwam.viz.heat import Floats, camera_shares, columns_for, evenly, on_canvas, overlay, panels, spread, zoom_for
from lightwam.viz.policy import BATCH, PolicyOnRecordings, open_policy
from lightwam.viz.recordings import (
    Recordings,
    check_pictures,
    file_name,
    open_recordings,
    require_positive_counts,
    rounded,
    title,
    writing,
)
from lightwam.viz.sheet import Line, draw_sheet

VIDEO_OPTIONS = {"crf": "20"}
# The last colour is this quantile of a pooler's weights in an episode, and at least so many times an even share:
# attention that is nearly even has no bright colours.
_TOP, _LEAST_TOP = 0.995, 4.0


@dataclass(frozen=True)
class EpisodeMaps:
    """What the poolers do in one episode.

    rows: of the data set. canvases: uint8 [N, H, W, 3], as the policy sees the cameras. weights: pooler -> [N, r, c],
    each row's sum is 1. tops: pooler -> multiple of an even share that has the last colour.
    """

    episode: Episode
    rows: Sequence[int]
    canvases: Images
    weights: Mapping[str, Floats]
    tops: Mapping[str, float]


@default_arithmetic
def show_attention(
    recordings: Recordings, checkpoint: Path, every: int = 1, frames: int = 8, top: float | None = None
) -> dict[str, Any]:
    """Write for each episode a contact sheet and an overlay video, and attention.json; returns the latter's figures.

    Args:
        checkpoint: a policy's checkpoint folder.
        every: use every so many-th row of the recordings.
        frames: most columns of the contact sheet.
        top: multiple of an even share that has the last colour; None: chosen for each pooler and episode.

    Raises:
        ConfigError: the policy pools by the mean, or options make no sense; `DataError`, `CheckpointError`,
            `InstructionError`: the recordings and the checkpoint cannot be read, or not together.
    """
    require_positive_counts(every=every, frames=frames)
    if top is not None and not 0 < top < np.inf:
        raise ConfigError(f"--top is {top:g}: use a number above 0")
    check_pictures(recordings, "attention", checkpoint)
    opened = open_policy(checkpoint)
    if opened.config.action_expert.pooling != "learned_query":
        raise ConfigError(
            f"checkpoint {checkpoint} has action_expert.pooling 'mean', which looks at every token alike: give a "
            "policy with 'learned_query'"
        )
    dataset = open_recordings(recordings, opened.config)
    policy = PolicyOnRecordings(opened, dataset)
    chosen = {episode.index: range(episode.start, episode.stop, every) for episode in dataset.episodes}
    total = sum(map(len, chosen.values()))
    rate = Fraction(_rows_a_second(policy)).limit_denominator(1000) / every
    with (
        writing(recordings, "attention") as (folder, figures),
        progress_bar("looking", 2 * total, show=True) as advance,
    ):
        for episode in dataset.episodes:
            maps = episode_maps(policy, episode, chosen[episode.index], advance)
            if top is not None:
                maps = replace(maps, tops=dict.fromkeys(maps.tops, top))
            attention_sheet(folder / file_name("attention", episode, ".png"), policy, maps, frames)
            write_video(folder / file_name("attention", episode, ".mp4"), policy, maps, rate, advance)
            figures["episodes"][str(episode.index)] = _figures(policy, maps)
    return figures


@torch.no_grad()
def episode_maps(
    policy: PolicyOnRecordings, episode: Episode, rows: Sequence[int], on_rows: Callable[[int], None]
) -> EpisodeMaps:
    """The maps of these rows; `on_rows` is called with how many more are done."""
    weights: dict[str, list[Floats]] = {}
    canvases = []
    for start in range(0, len(rows), BATCH):
        batch = policy.batch(rows[start : start + BATCH])
        for name, maps in pooler_maps(policy.model, policy.inputs(batch)).items():
            weights.setdefault(name, []).append(maps)
        pixels = (batch["video"][:, :, 0].permute(0, 2, 3, 1) / 2 + 0.5) * 255
        canvases.append(pixels.round().clamp(0, 255).to(torch.uint8).numpy())
        on_rows(len(canvases[-1]))
    joined = {name: np.concatenate(maps) for name, maps in weights.items()}
    tops = {name: max(float(np.quantile(maps, _TOP)) * maps[0].size, _LEAST_TOP) for name, maps in joined.items()}
    return EpisodeMaps(episode, rows, np.concatenate(canvases), joined, tops)


def pooler_maps(model: LightWAM, inputs: tuple[Tensor, Tensor, Tensor | None, Tensor]) -> dict[str, Floats]:
    """Pooler -> its weights [B, r, c]; its name is the adapter's block, and its source where that is not 'adapted'.

    inputs: the arguments of `LightWAM.pooler_attention`, without gradients.
    """
    grid = model.config.token_grid
    return {
        f"block {block}" + ("" if source == "adapted" else f", {source}"): found.summary.reshape(-1, *grid).numpy()
        for block, sources in model.pooler_attention(*inputs).items()
        for source, found in sources.items()
    }


def overlays(policy: PolicyOnRecordings, maps: EpisodeMaps, place: int) -> dict[str, Images]:
    """Pooler -> the canvas of one row under its heat map."""
    layout = policy.config.cameras
    return {
        name: overlay(maps.canvases[place], on_canvas(weights[place], layout), maps.tops[name])
        for name, weights in maps.weights.items()
    }


def attention_sheet(path: Path, policy: PolicyOnRecordings, maps: EpisodeMaps, frames: int) -> None:
    """A line for the canvas and one a pooler, rows of the episode from left to right."""
    places = evenly(len(maps.rows), frames)
    shown = [overlays(policy, maps, place) for place in places]
    labels = [f"row {maps.rows[place] - maps.episode.start}" for place in places]
    lines = [Line("what the policy sees", [maps.canvases[place] for place in places], labels)]
    for name, top in maps.tops.items():
        lines.append(Line(f"{name}; yellow: {top:.1f} times an even share", [one[name] for one in shown]))
    draw_sheet(path, title(policy.dataset, maps.episode, "attention"), lines)


def write_video(
    path: Path, policy: PolicyOnRecordings, maps: EpisodeMaps, rate: Fraction, on_rows: Callable[[int], None]
) -> None:
    """The canvas and each pooler's heat map, side by side, through the episode."""
    layout = policy.config.cameras
    size, count = (layout.height, layout.width), 1 + len(maps.weights)
    zoom = zoom_for(layout.height)
    columns = columns_for(count, (zoom * size[0], zoom * size[1]))
    with encoding_video(path, rate, VIDEO_OPTIONS) as append:
        for place, row in enumerate(maps.rows):
            images = [(f"row {row - maps.episode.start}", maps.canvases[place])]
            for name, image in overlays(policy, maps, place).items():
                shares = camera_shares(maps.weights[name][place], layout)
                told = ", ".join(f"{camera} {share:.0%}" for camera, share in shares.items())
                images.append((f"{name}: {told}", image))
            append(panels(images, columns, zoom))
            on_rows(1)


def _figures(policy: PolicyOnRecordings, maps: EpisodeMaps) -> dict[str, Any]:
    """For each pooler the mean share of each camera, and over how many tokens it spreads."""
    layout, tokens = policy.config.cameras, int(np.prod(policy.config.token_grid))
    found = {}
    for name, weights in maps.weights.items():
        shares = [camera_shares(one, layout) for one in weights]
        mean = {camera: float(np.mean([share[camera] for share in shares])) for camera in shares[0]}
        found[name] = {
            "camera_share": rounded(mean),
            "even_share": rounded({c.name: c.height * c.width / layout.height / layout.width for c in layout.cameras}),
            "spread_tokens": round(float(np.mean([spread(one) for one in weights])), 1),
            "tokens": tokens,
        }
    return {"task": maps.episode.task, "rows": len(maps.rows), "poolers": found}


def _rows_a_second(policy: PolicyOnRecordings) -> float:
    dataset: Dataset = policy.dataset
    return dataset.fps or policy.config.robot.control_hz / dataset.action_substeps
