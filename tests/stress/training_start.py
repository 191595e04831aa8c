# SPDX-License-Identifier: Apache-2.0
"""How long a run on cached data takes until its first update is done: `python tests/stress/training_start.py --work
FOLDER [--rows 270000]`.

A made-up LeRobot v2.1 set of 1,700 episodes (a table each), latents in shards of 4096 as the published precompute
writes them, the recipe libero_goal with small networks, batch 2. Prints seconds and CPU seconds since the start.
"""

from __future__ import annotations

import argparse
import cProfile
import dataclasses
import json
import pstats
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from full_size_step import write_caches, write_rows

from lightwam.config import AdapterConfig, LightWAMConfig, LoRAConfig
from lightwam.train.policy import train_policy
from lightwam.train.policy_data import PolicyInputs
from lightwam.train.policy_options import PolicyTrainArgs
from lightwam.train.step import TrainStep

EPISODES, SHARD = 1700, 4096


def small_networks() -> LightWAMConfig:
    config = LightWAMConfig.libero()
    dit = dataclasses.replace(
        config.video_dit, hidden_dim=48, ffn_dim=64, num_heads=2, head_dim=24, num_layers=2, freq_dim=16,
        lora=LoRAConfig(layers=(0, 1), rank=2, alpha=4.0), adapters=AdapterConfig(layers=(0, 1), dim=8),
    )  # fmt: skip
    expert = dataclasses.replace(config.action_expert, per_layer_dim=24, trunk_dim=32, num_queries=4)
    return dataclasses.replace(config, video_dit=dit, action_expert=expert)


def write_shards(latents: Path, config: LightWAMConfig, samples: int) -> None:
    """Shards of one window's latents over and over: as many entries, a small file."""
    shape = (config.vae.z_dim, 3, *config.latent_size)
    one = torch.randn(1, *shape).bfloat16()
    shutil.rmtree(latents / "shards")
    (latents / "shards").mkdir()
    paths = []
    for first in range(0, samples, SHARD):
        count = min(SHARD, samples - first)
        paths.append(f"shards/shard_{first // SHARD:06d}.pt")
        entries = {"video_latents": one.expand(count, *shape), "sample_indices": torch.arange(first, first + count)}
        torch.save(entries, latents / paths[-1])
    numbers = torch.arange(samples)
    index = {
        "format": 1, "storage_format": "sharded_v1", "num_samples": samples, "shard_paths": paths,
        "sample_to_shard": (numbers // SHARD).int(), "sample_to_offset": (numbers % SHARD).int(),
    }  # fmt: skip
    torch.save(index, latents / "index.pt")


@contextmanager
def told_at_the_first_update(name: str, began: float, cpu: float) -> Iterator[None]:
    """Print how long it took, when `TrainStep.step` comes back for the first time."""
    step = TrainStep.step

    def timed(self: TrainStep, *args: Any, **options: Any) -> dict[str, float]:
        figures = step(self, *args, **options)
        print(f"{name}: {time.perf_counter() - began:.1f} s, {time.process_time() - cpu:.1f} CPU s", flush=True)
        return figures

    with mock.patch.object(TrainStep, "step", timed):
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=270_000)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    torch.set_num_threads(1)
    try:
        config, rows = small_networks(), options.rows // EPISODES
        latents, texts = write_caches(options.work, config, 4)
        write_shards(latents, config, EPISODES * rows)
        (options.work / "policy.json").write_text(json.dumps(config.to_dict()))
        data = write_rows(options.work / "data", EPISODES, rows)
        print(f"{EPISODES * rows} rows, {EPISODES} episodes written", flush=True)
        inputs = PolicyInputs(data=(data,), latents=(latents,), texts=texts, random_backbone=True, check=False)
        given = {"recipe": "libero_goal", "config": str(options.work / "policy.json")}
        groups = PolicyTrainArgs.defaults(given)
        groups["schedule"] = dataclasses.replace(groups["schedule"], batch=2)
        groups["saving"] = dataclasses.replace(groups["saving"], log_every=1, stop_after=1)
        groups["computing"] = dataclasses.replace(groups["computing"], precision="float32")
        groups["loading"] = dataclasses.replace(groups["loading"], workers=0)
        for name in ("first start", "again"):
            args = PolicyTrainArgs(inputs=inputs, out=options.work / name, **given, **groups)
            began, cpu = time.perf_counter(), time.process_time()
            profiler = cProfile.Profile() if options.profile else None
            if profiler is not None:
                profiler.enable()
            with told_at_the_first_update(name, began, cpu):
                train_policy(args)
            if profiler is not None:
                profiler.disable()
                pstats.Stats(profiler).sort_stats("cumulative").print_stats(35)
        return 0
    finally:
        shutil.rmtree(options.work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
