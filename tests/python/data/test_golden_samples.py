# SPDX-License-Identifier: Apache-2.0
"""Samples equal the published loader's: every tensor of every variant, statistics, splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.golden_data import HDF5, LEROBOT, dataset, facts, libero, robotwin, statistics, tensors
from lightwam.config import LightWAMConfig
from lightwam.data.caches import FrameCache
from lightwam.data.dataset import Dataset
from lightwam.data.frames import read_frames
from lightwam.data.images import RESIZE_ONCE, CanvasRule
from lightwam.data.published_statistics import published_statistics
from lightwam.data.samples import CachedFrames, DecodedFrames, SampleOptions, Samples
from lightwam.data.windows import WindowIndex, published_split

PLAIN, TWICE = SampleOptions(), CanvasRule(resize_first=(240, 320))


@dataclass(frozen=True)
class Variant:
    """One configuration of the published loader."""

    config: LightWAMConfig
    options: SampleOptions = PLAIN
    rule: CanvasRule = RESIZE_ONCE


VARIANTS = {
    "libero": Variant(libero()),
    "libero_zscore": Variant(libero(mode="z-score")),
    "libero_quantile": Variant(libero(mode="q01/q99")),
    "libero_stepwise": Variant(libero(), SampleOptions(stepwise_action=True)),
    "libero_stride2": Variant(libero(), SampleOptions(sample_stride=2)),
    "libero_vertical": Variant(libero(vertical=True)),
    "libero_bicubic_crop": Variant(libero(), rule=CanvasRule(cover=(48, 64))),
    "libero_ratio8": Variant(libero(stride=8, num_frames=5)),
    "robotwin": Variant(robotwin(), rule=TWICE),
    "hdf5": Variant(robotwin(), rule=TWICE),
}


def folder_of(name: str) -> tuple[Path, str]:
    """Where a variant's data set lies, and its name."""
    if name == "hdf5":
        pytest.importorskip("h5py")
        return HDF5, "real_tiny"
    return LEROBOT, "robotwin_tiny" if name == "robotwin" else "libero_tiny"


def wanted(folder: Path, name: str) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(sample, its tensors) of a variant."""
    entries = {key: value for key, value in tensors(folder).items() if key.split(".")[0] == name}
    for sample in sorted({int(key.split(".")[1]) for key in entries}):
        start = f"{name}.{sample}."
        yield sample, {key.removeprefix(start): value for key, value in entries.items() if key.startswith(start)}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_tensor_of_a_sample(name: str) -> None:
    variant, (folder, set_name) = VARIANTS[name], folder_of(name)
    data, measured = dataset(folder, set_name), statistics(folder, set_name)
    if name == "libero_zscore":  # its run had added up the episodes in another order: the last digit differs
        measured = published_statistics([data.take([1, 2, 0])], variant.config)
    frames = DecodedFrames(data, variant.config, variant.rule, keep=3)
    samples = Samples(data, variant.config, measured, variant.options, frames=frames)
    raw = WindowIndex(data, variant.config, variant.options.sample_stride, zero_padded_deltas=False)
    assert len(samples) == {"robotwin": 48, "hdf5": 9}.get(name, 65)
    for number, tensors_of in wanted(folder, name):
        made = samples[number]
        for key in ("action", "proprio"):
            torch.testing.assert_close(made[key], tensors_of[key], atol=1e-6, rtol=0)
        for key in ("action_is_pad", "proprio_is_pad", "image_is_pad"):
            assert torch.equal(made[key], tensors_of[key])
        height, width = made["video"].shape[-2:]
        grid = made["video"][..., :: height // 4, :: width // 8]
        torch.testing.assert_close(grid, tensors_of["video_grid"], atol=1e-5, rtol=0)
        torch.testing.assert_close(made["video"].sum((-1, -2)), tensors_of["video_sum"], atol=0.02, rtol=0)
        if "video_first" in tensors_of:
            torch.testing.assert_close(made["video"][:, 0], tensors_of["video_first"], atol=1e-5, rtol=0)
        row = raw.rows[[number]]
        np.testing.assert_array_equal(raw.windows(row).action_NHA[0], tensors_of["raw_action"])
        np.testing.assert_array_equal(raw.state_windows(row)[0][0], tensors_of["raw_state"])


@pytest.mark.parametrize("name", ["libero", "hdf5"])
def test_source_frames_are_the_decoders(name: str) -> None:
    variant, (folder, set_name) = VARIANTS[name], folder_of(name)
    data = dataset(folder, set_name)
    samples = Samples(data, variant.config, statistics(folder, set_name))
    data_names = {camera.name: camera.data_name for camera in variant.config.robot.cameras}
    sums = {
        (episode.start, name): next(iter(read_frames([span]))).astype(np.int64).sum((1, 2))
        for episode in data.episodes
        for name, span in episode.videos.items()
    }
    for number, tensors_of in wanted(folder, name):
        episode, row = samples.episode(number), samples.index.rows[number]
        steps = np.minimum(row - episode.start + np.arange(33), episode.length - 1)
        for camera, data_name in data_names.items():
            found = sums[episode.start, camera][steps]
            np.testing.assert_array_equal(found, tensors_of[f"raw_image_sum.{data_name}"])


def test_one_resize_differs_from_the_published_two() -> None:
    data, config = dataset(LEROBOT, "robotwin_tiny"), robotwin()
    once, twice = (
        Samples(data, config, statistics(LEROBOT, "robotwin_tiny"), frames=DecodedFrames(data, config, rule))[0][
            "video"
        ]
        for rule in (RESIZE_ONCE, TWICE)
    )
    assert 1e-3 < (once - twice).abs().max() < 0.2


def test_cached_frames_are_half_a_grey_level_off_at_most(tmp_path: Path) -> None:
    data, config, measured = dataset(LEROBOT, "libero_tiny"), libero(), statistics(LEROBOT, "libero_tiny")
    paths = set()
    for rule in (RESIZE_ONCE, CanvasRule(cover=(48, 64))):
        cache = FrameCache(data, config.cameras, tmp_path, rule)
        assert cache.build() == 3
        paths.add(cache.path(data.episodes[0]))
        cached = Samples(data, config, measured, frames=CachedFrames(cache))
        exact = Samples(data, config, measured, frames=DecodedFrames(data, config, rule, keep=3))
        for number in (0, 16, 64):
            assert (cached[number]["video"] - exact[number]["video"]).abs().max() <= 1.0 / 255 + 1e-6
    assert len(paths) == 2


@pytest.mark.parametrize("name", ["libero", "robotwin", "hdf5"])
def test_statistics_in_the_published_definition(name: str) -> None:
    folder, set_name = folder_of(name)
    made, published = (
        published_statistics([dataset(folder, set_name)], VARIANTS[name].config),
        statistics(folder, set_name),
    )
    assert (made["num_episodes"], made["num_transition"]) == (published["num_episodes"], published["num_transition"])
    for field in ("state", "action"):
        assert set(made[field]["default"]) == set(published[field]["default"])
        for key, values in published[field]["default"].items():
            np.testing.assert_allclose(
                made[field]["default"][key], values, rtol=1e-6, atol=1e-7, err_msg=f"{field} {key}"
            )


def _numbered(count: int) -> Dataset:
    data = dataset(LEROBOT, "libero_tiny")
    return data.take([0] * count)


def test_splits_are_the_published_ones() -> None:
    three = dataset(LEROBOT, "libero_tiny")
    for key, split in facts(LEROBOT)["splits"].items():
        if "episodes" in key:
            count, proportion = int(key.split()[0]), float(key.split()[-1])
            training, held_out = published_split(_numbered(count), proportion)
            assert (training, held_out) == (split["train"], split["val"])
        else:
            parts = published_split(three, float(key))
            for part, name in zip(parts, ("train", "val"), strict=True):
                assert part == split.get(name, {"episodes": []})["episodes"]
                assert not part or len(three.take(part).state) == split[name]["len"]


def test_hdf5_splits_are_sorted_and_count_short_episodes() -> None:
    pytest.importorskip("h5py")
    data = dataset(HDF5, "real_tiny")
    for part, name in zip(published_split(data, 0.34), ("train", "val"), strict=True):
        chosen, split = data.take(part), facts(HDF5)["split_0.34"][name]
        files = [f"episode_{episode.index}.hdf5" for episode in chosen.episodes if episode.length >= 33]
        assert files == split["files"]
        assert len(Samples(chosen, robotwin(), statistics(HDF5, "real_tiny"))) == split["len"]


def test_prompts_are_the_published_ones() -> None:
    samples = Samples(dataset(LEROBOT, "libero_tiny"), libero(), statistics(LEROBOT, "libero_tiny"))
    for number, fact in facts(LEROBOT)["libero"]["samples"].items():
        assert samples.prompt(samples.episode(int(number))) == fact["prompt"]
