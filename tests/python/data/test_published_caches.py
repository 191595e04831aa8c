# SPDX-License-Identifier: Apache-2.0
"""The published latent and text caches: read back as the published loader reads them, refused for other samples."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.golden_data import LEROBOT, dataset, facts, libero, tensors
from lightwam.data.dataset import Dataset
from lightwam.data.published_caches import PublishedLatents, PublishedTexts, load_published
from lightwam.data.published_statistics import published_statistics
from lightwam.data.samples import Samples
from lightwam.data.windows import WindowIndex, published_split
from lightwam.errors import DataError

CONFIG = libero(16, text_width=32)
KINDS = ("single_file_v1", "sharded_v1", "episode_packed_v1")


def data_of(kind: str) -> Dataset:
    """The split that a cache was made of."""
    data = dataset(LEROBOT, "libero_tiny")
    return data.take(published_split(data, 0.34)[0]) if kind == "single_file_v1" else data


def opened(folder: Path, data: Dataset, stride: int = 1) -> PublishedLatents:
    return PublishedLatents(folder, WindowIndex(data, CONFIG, stride), CONFIG)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LEROBOT, tmp_path / "golden", ignore=shutil.ignore_patterns("*.mp4")))


@pytest.mark.parametrize("kind", KINDS)
def test_samples_read_through_a_cache(kind: str) -> None:
    data = data_of(kind)
    latents = opened(LEROBOT / f"latents_{kind}", data)
    texts = PublishedTexts(LEROBOT / "text_cache", CONFIG.text)
    samples = Samples(data, CONFIG, published_statistics([data], CONFIG), latents=latents, texts=texts)
    assert len(latents) == len(samples) == facts(LEROBOT)["latent_caches"][kind]["len"]
    compared = 0
    for key, value in tensors(LEROBOT).items():
        name, number, what = key.split(".", 2)
        if name == kind:
            torch.testing.assert_close(samples[int(number)][what], value, atol=1e-6, rtol=0)
            compared += 1
    assert compared == 24
    for number, fact in facts(LEROBOT)["latent_caches"][kind]["samples"].items():
        made = samples[int(number)]
        assert made["prompt"] == fact["prompt"]
        assert made["context"].dtype == torch.bfloat16 and made["context_mask"].all()
        assert made["context"].double().sum().item() == pytest.approx(fact["context"]["sum"], abs=1e-6)
        assert int((made["context"] != 0).any(1).sum()) == fact["context"]["nonzero_rows"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_of_another_count_is_refused(kind: str) -> None:
    data = dataset(LEROBOT, "libero_tiny")
    with pytest.raises(DataError, match=r"holds \d+ samples, .* has \d+ in this split"):
        opened(LEROBOT / f"latents_{kind}", data.take([1]))


def test_a_packed_cache_tells_another_order_of_episodes() -> None:
    with pytest.raises(DataError, match="another split"):
        opened(LEROBOT / "latents_episode_packed_v1", dataset(LEROBOT, "libero_tiny").take([1, 0, 2]))


def test_a_cache_of_another_stride_or_canvas_is_refused() -> None:
    data = dataset(LEROBOT, "libero_tiny")
    with pytest.raises(DataError, match="global_sample_stride 1, the configuration has 2"):
        opened(LEROBOT / "latents_sharded_v1", data, stride=2)
    big = libero(32)
    with pytest.raises(DataError, match=r"video_size \[16, 32\]"):
        PublishedLatents(LEROBOT / "latents_sharded_v1", WindowIndex(data, big), big)


def test_latents_of_another_shape_are_refused(copy: Path) -> None:
    (copy / "latents_sharded_v1/meta.json").unlink()
    data, big = dataset(LEROBOT, "libero_tiny"), libero(32)
    with pytest.raises(DataError, match=r"latents \[16, 3, 2, 4\]: the configuration has \[16, 3, 4, 8\]"):
        PublishedLatents(copy / "latents_sharded_v1", WindowIndex(data, big), big)


def test_damaged_caches_are_one_error_each(copy: Path) -> None:
    data, folder = dataset(LEROBOT, "libero_tiny"), copy / "latents_sharded_v1"
    index = dict(load_published(folder / "index.pt"))

    def refused(match: str, **changes: object) -> None:
        torch.save({**index, **changes}, folder / "index.pt")
        with pytest.raises(DataError, match=match):
            opened(folder, data)

    holes = index["sample_to_shard"].clone()
    holes[7] = -1
    refused("lacks samples", sample_to_shard=holes)
    refused("kind 'zip'", storage_format="zip")
    refused("no list of shards in it", shard_paths=["../secret.pt"] * 3)
    refused("no sample table", sample_to_offset=None)
    swapped = index["sample_to_offset"].clone()
    swapped[0], swapped[1] = 1, 0
    refused("holds sample 1 in place of 0", sample_to_offset=swapped)
    shard = folder / index["shard_paths"][0]
    shard.write_bytes(shard.read_bytes()[:1000])
    refused("missing or damaged")
    (folder / "index.pt").unlink()
    with pytest.raises(DataError, match="neither index"):
        opened(folder, data)
    (copy / "latents_single_file_v1/00000003.pt").rename(copy / "latents_single_file_v1/00000099.pt")
    with pytest.raises(DataError, match=r"lacks \['00000003.pt'\]"):
        opened(copy / "latents_single_file_v1", data_of("single_file_v1"))


def test_a_cache_file_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("run",)

    torch.save({"video_latents": Evil()}, tmp_path / "00000000.pt")
    with pytest.raises(DataError, match="missing or damaged"):
        load_published(tmp_path / "00000000.pt")


def test_text_rows_past_the_text_are_zero_though_the_file_has_others() -> None:
    texts = PublishedTexts(LEROBOT / "text_cache", CONFIG.text)
    for prompt in facts(LEROBOT)["text_cache_prompts"].values():
        stored, (rows, mask) = load_published(texts.path(prompt)), texts.context(prompt)
        assert stored["context"][~stored["mask"]].abs().sum() > 0 and rows[~stored["mask"]].abs().sum() == 0
        assert torch.equal(rows[stored["mask"]], stored["context"][stored["mask"]]) and mask.all()


def test_missing_and_unfit_texts_are_refused(copy: Path) -> None:
    texts = PublishedTexts(copy / "text_cache", CONFIG.text)
    with pytest.raises(DataError, match="has no file of 'another task'"):
        texts.context("another task")
    prompt = next(iter(facts(LEROBOT)["text_cache_prompts"].values()))
    with pytest.raises(DataError, match=r"context \[128, 32\]: it must be numbers \[128, 64\]"):
        PublishedTexts(copy / "text_cache", replace(CONFIG.text, width=64)).context(prompt)
    torch.save({"context": torch.zeros(128, 32), "mask": torch.ones(128)}, texts.path(prompt))
    with pytest.raises(DataError, match="128 booleans"):
        texts.context(prompt)


def test_settings_that_meta_does_not_tell_are_not_compared(copy: Path) -> None:
    path = copy / "latents_sharded_v1/meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data_train": None}))
    assert len(opened(copy / "latents_sharded_v1", dataset(LEROBOT, "libero_tiny"))) == 65
