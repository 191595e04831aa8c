# SPDX-License-Identifier: Apache-2.0
"""The latent cache: what its files depend on, several writers, damage, and the variants of augmentation."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import arm_set
from helpers.arm_set import arm_config, video_path
from lightwam.config import LightWAMConfig
from lightwam.data.augment import Augmentation, augment, rectangles
from lightwam.data.dataset import Dataset
from lightwam.data.frames import read_frames
from lightwam.data.images import join_cameras
from lightwam.data.latent_store import LatentOptions, LatentStore
from lightwam.data.samples import Samples
from lightwam.data.sources import open_datasets
from lightwam.data.windows import measure_statistics
from lightwam.errors import DataError

MakeStore = Callable[..., LatentStore]


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return arm_set.write_arm_set(tmp_path_factory.mktemp("store") / "arm")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> LightWAMConfig:
    return arm_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def data(arm: Path, config: LightWAMConfig) -> Dataset:
    return open_datasets([arm], config)[0]


def encode(clips: Tensor) -> Tensor:
    """Stands for a VAE: means of 8x8 blocks, of the first frame and of groups of four; 16 channels."""
    m, frames = clips.shape[:2]
    blocks = torch.nn.functional.avg_pool2d(clips.flatten(0, 1), 8).unflatten(0, (m, frames))
    groups = [blocks[:, :1]] + [blocks[:, i : i + 4].mean(1, keepdim=True) for i in range(1, frames, 4)]
    return torch.cat(groups, 1).transpose(1, 2).repeat(1, 6, 1, 1, 1)[:, :16]


def expected(data: Dataset, config: LightWAMConfig, row: int) -> Tensor:
    episode = next(e for e in data.episodes if e.start <= row < e.stop)
    steps = np.minimum(row + np.arange(config.video.num_frames) * config.video.stride, episode.stop - 1)
    images = {name: next(read_frames([span]))[steps - episode.start] for name, span in episode.videos.items()}
    return encode(join_cameras(images, config.cameras)[None])[0]


def test_latents_are_those_of_each_window(data: Dataset, config: LightWAMConfig, tmp_path: Path) -> None:
    store = LatentStore(data, config, tmp_path, "vae0")
    assert len(store.missing()) == 4
    with pytest.raises(DataError, match="is missing: run 'lightwam data precompute' first"):
        store.latents(0)
    done: list[int] = []
    assert store.build(encode, batch=5, advance=done.append) == 4 and sum(done) == len(data.state) == len(store)
    for row in (0, 5, 23, 24, 91):
        assert torch.allclose(store.latents(row).float(), expected(data, config, row), atol=1e-3)
        assert torch.equal(store.first(row), store.latents(row)[:, 0])
    assert store.build(encode) == 0 and store.verify() == [] and store.missing() == []
    again = pickle.loads(pickle.dumps(store))  # as for the workers of a data loader
    assert torch.equal(again.latents(7), store.latents(7))
    document = measure_statistics([data], config)
    sample = Samples(data, config, document, latents=store)[7]
    assert torch.equal(sample["video_latents"], store.latents(7))


def test_futures_of_some_rows(data: Dataset, config: LightWAMConfig, tmp_path: Path) -> None:
    whole, some = (LatentStore(data, config, tmp_path, "v", LatentOptions(future_stride=k)) for k in (1, 4))
    assert whole.build(encode) == some.build(encode) == 4
    for row in range(40):
        place = row if row < 24 else row - 24
        wanted = whole.latents(row) if place % 4 == 0 else whole.latents(row)[:, :1]
        assert torch.equal(some.latents(row), wanted)


def test_a_name_depends_on_all_that_the_latents_depend_on(
    arm: Path, data: Dataset, config: LightWAMConfig, tmp_path: Path
) -> None:
    base = LatentStore(data, config, tmp_path, "v")
    how = Augmentation()
    layout = replace(config.robot.cameras[0], in_data="rotated_180"), *config.robot.cameras[1:]
    turned = config.with_robot(replace(config.robot, cameras=layout))
    longer = replace(config, video=replace(config.video, num_frames=config.video.num_frames + 4))
    others = [
        LatentStore(data, config, tmp_path, "w"), LatentStore(data, turned, tmp_path, "v"),
        LatentStore(data, longer, tmp_path, "v"),
        *(LatentStore(data, config, tmp_path, "v", options) for options in (
            LatentOptions(sample_stride=2), LatentOptions(future_stride=2),
            LatentOptions(whole_windows=True))),
    ]  # fmt: skip
    names = [store.path(0) for store in (base, *others)]
    varied = [LatentOptions(augmentation=how, variants=3), LatentOptions(augmentation=how, variants=3, seed=1),
              LatentOptions(augmentation=replace(how, hue=0.1), variants=3)]  # fmt: skip
    names += [LatentStore(data, config, tmp_path, "v", options).path(0, v) for options in varied for v in (1, 2)]
    assert len(set(names)) == len(names)
    assert LatentStore(data, config, tmp_path, "v", varied[0]).path(0, 0) == base.path(0)
    other = Path(shutil.copytree(arm, tmp_path / "other"))
    arm_set.edit_table(other, 0, lambda columns: columns.update(action=columns["action"] * 0.5))
    changed = open_datasets([other], config)[0]
    assert LatentStore(changed, config, tmp_path, "v").path(0) == base.path(0)  # actions make no latents
    video_path(other, 0).unlink()
    arm_set.write_video(video_path(other, 0), [arm_set.picture(9, i, 0) for i in range(24)])
    assert LatentStore(open_datasets([other], config)[0], config, tmp_path, "v").path(0) != base.path(0)
    base.build(encode)
    with pytest.raises(DataError, match="latents of another vae v instead of w"):
        others[0].latents(0)


def test_writers_share_the_work_and_frames_are_decoded_once(
    data: Dataset, config: LightWAMConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightwam.data.latent_store as module

    decoded: list[Path] = []

    def counted(spans):  # type: ignore[no-untyped-def]
        def noted():  # type: ignore[no-untyped-def]
            for span in spans:
                decoded.append(span.path)
                yield span

        return read_frames(noted())

    monkeypatch.setattr(module, "read_frames", counted)
    options = LatentOptions(augmentation=Augmentation(), variants=2)
    first, second = (LatentStore(data, config, tmp_path, "v", options) for _ in range(2))
    order: list[str] = []

    def both(clips: Tensor) -> Tensor:
        if not order:  # while the first one is at its first episode, the second does all
            order.append("second")
            assert second.build(encode) == 8
        return encode(clips)

    assert first.build(both) == 2
    assert first.missing() == [] == first.verify()
    # The first finished the episode that it had begun. Each camera's file is read once by a writer.
    assert sorted(map(str, decoded)) == sorted(
        str(video_path(data.root, e, c)) for e in (0, 0, 1, 2, 3) for c in arm_set.CAMERAS
    )


def test_variants_are_augmented_windows(data: Dataset, config: LightWAMConfig, tmp_path: Path) -> None:
    how = Augmentation(noise=0)
    store = LatentStore(data, config, tmp_path, "v", LatentOptions(augmentation=how, variants=3, seed=4))
    assert store.build(encode) == 12
    plain = LatentStore(data, config, tmp_path, "v")
    assert plain.missing() == []
    for sample in (0, 30):
        seen = [store.latents(sample, epoch) for epoch in range(3)]
        variants = [store.variant(sample, epoch) for epoch in range(3)]
        assert sorted(variants) == [0, 1, 2]
        assert torch.equal(seen[variants.index(0)], plain.latents(sample))
        assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    episode, row, variant = data.episodes[1], 30, 2
    steps = np.minimum(row + np.arange(config.video.num_frames) * config.video.stride, episode.stop - 1)
    images = {name: next(read_frames([span]))[steps - episode.start] for name, span in episode.videos.items()}
    clip = join_cameras(images, config.cameras)
    places = rectangles(config.cameras, (config.cameras.height, config.cameras.width))
    wanted = encode(augment(clip, places, how, 4, store.key(1, 0)["frames"], row - episode.start, variant)[None])[0]
    epoch = [store.variant(row, e) for e in range(3)].index(variant)
    assert torch.allclose(store.latents(row, epoch).float(), wanted, atol=1e-3)
    with pytest.raises(DataError, match="they would be alike"):
        LatentOptions(variants=2)


def test_a_build_that_was_ended_goes_on_and_damage_is_told(
    data: Dataset, config: LightWAMConfig, tmp_path: Path
) -> None:
    store = LatentStore(data, config, tmp_path, "v")
    calls = 0

    def ends(clips: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return encode(clips)

    with pytest.raises(KeyboardInterrupt):
        store.build(ends)
    assert 0 < len(store.missing()) < 4 and len(list(tmp_path.iterdir())) == 4 - len(store.missing())
    assert store.build(encode) == 3 and store.verify() == []
    path = store.path(2)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert store.verify() == [path]
    path.write_bytes(content[:-40])
    with pytest.raises(DataError, match=r"is damaged .*: delete it and build again"):
        LatentStore(data, config, tmp_path, "v").latents(44)
    for bad, message in ((lambda c: encode(c) * torch.nan, "not finite"), (lambda c: encode(c)[:, :3], "its own VAE")):
        with pytest.raises(DataError, match=message):
            LatentStore(data, config, tmp_path, "x").build(bad)
