# SPDX-License-Identifier: Apache-2.0
"""Two updates of the full-size LIBERO recipe and a resume between them, on this machine's CPU: `python
tests/stress/full_size_step.py --work FOLDER`.

Random weights, latents and text rows from small made-up caches, batch 1, frozen blocks stored in bfloat16, matmuls in
float32 (older CPUs compute bfloat16 very slowly), activation checkpointing. Prints the peak memory, the time of each
part, and the first loss beside that of the plain computation with all weights in float32 (`exact_savings=False`).
FOLDER needs 30 GB.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lightwam.config import LightWAMConfig
from lightwam.data.published_caches import PublishedTexts
from lightwam.train.distributed import World
from lightwam.train.policy import build_policy, train_policy
from lightwam.train.policy_data import PolicyInputs
from lightwam.train.policy_options import Machine, PolicyTrainArgs
from lightwam.train.run_folder import saves_of
from lightwam.train.state import TrainingState
from lightwam.train.trainer import generator_of

TASK = "put the bowl on the plate"


def write_rows(root: Path, episodes: int, rows: int) -> Path:
    """A LeRobot v2.1 data set of random rows for LIBERO's robot; its videos are listed and not there."""
    rng = np.random.default_rng(0)
    cameras = ("agentview", "wrist")
    features: dict[str, Any] = {
        f"observation.images.{camera}": {"dtype": "video", "shape": [256, 256, 3]} for camera in cameras
    }
    features |= {"observation.state": {"dtype": "float32", "shape": [8]}, "action": {"dtype": "float32", "shape": [7]}}
    info = {
        "codebase_version": "v2.1", "fps": 20, "chunks_size": 1000, "features": features,
        "total_episodes": episodes, "total_frames": episodes * rows,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }  # fmt: skip
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": TASK}) + "\n")
    listing = [{"episode_index": i, "tasks": [TASK], "length": rows} for i in range(episodes)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listing))
    for index in range(episodes):
        path = root / f"data/chunk-{index // 1000:03d}/episode_{index:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        action = rng.uniform(-1, 1, (rows, 7)).astype(np.float32)
        action[:, 6] = action[:, 6] > 0
        state = rng.normal(size=(rows, 8)).astype(np.float32)
        table = {
            "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), 8),
            "action": pa.FixedSizeListArray.from_arrays(pa.array(action.ravel()), 7),
            "task_index": pa.array([0] * rows), "episode_index": pa.array([index] * rows),
        }  # fmt: skip
        pq.write_table(pa.table(table), path)
    return root


def write_caches(root: Path, config: LightWAMConfig, samples: int) -> tuple[Path, Path]:
    """A latent cache (sharded_v1) whose samples all lie in one shard, and a text cache, both of random numbers."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.vae.z_dim, 1 + (config.video.num_frames - 1) // config.vae.temporal_factor, *config.latent_size)
    latents, texts = root / "latents", root / "texts"
    (latents / "shards").mkdir(parents=True)
    stored = torch.randn(samples, *shape, generator=generator).bfloat16()
    torch.save({"video_latents": stored, "sample_indices": torch.arange(samples)}, latents / "shards/shard_0.pt")
    index = {
        "format": 1, "storage_format": "sharded_v1", "num_samples": samples, "shard_paths": ["shards/shard_0.pt"],
        "sample_to_shard": torch.zeros(samples, dtype=torch.int32),
        "sample_to_offset": torch.arange(samples, dtype=torch.int32),
    }  # fmt: skip
    torch.save(index, latents / "index.pt")
    texts.mkdir()
    prompt = config.text.prompt_template.format(task=TASK)
    rows = torch.randn(config.text.length, config.text.width, generator=generator).bfloat16()
    mask = torch.arange(config.text.length) < 20
    torch.save({"context": rows, "mask": mask}, PublishedTexts(texts, config.text).path(prompt))
    return latents, texts


def arguments(work: Path, threads: int) -> PolicyTrainArgs:
    inputs = PolicyInputs(
        data=(work / "data",), latents=(work / "latents",), texts=work / "texts", random_backbone=True, check=False
    )
    given = {"recipe": "libero_goal"}
    groups = PolicyTrainArgs.defaults(given)
    schedule = dataclasses.replace(groups["schedule"], steps=2, batch=1, warmup_steps=1)
    computing = dataclasses.replace(
        groups["computing"], precision="float32", compact=True, checkpointing=True, attention="sdpa"
    )
    saving = dataclasses.replace(groups["saving"], log_every=1, keep_last=1)
    loading = dataclasses.replace(groups["loading"], workers=0)
    groups |= {"schedule": schedule, "computing": computing, "saving": saving, "loading": loading}
    return PolicyTrainArgs(inputs=inputs, out=work / "run", machine=Machine(threads=threads), **given, **groups)


def plain_loss(args: PolicyTrainArgs) -> float:
    """The first update's loss, pass by pass, of the same first weights in float32, samples, noise and times."""
    args = dataclasses.replace(args, computing=dataclasses.replace(args.computing, compact=False))
    subject, recipe = build_policy(args.resolved(), args.inputs, World(), args.out)
    ready = subject.ready(next(subject.updates(0, 1))[0], generator_of(recipe.schedule.seed, 0, 0))
    with torch.no_grad():
        losses = subject.networks.policy.training_losses(ready.batch, ready.noise, ready.timestep, exact_savings=False)
    return float(losses["loss"])


def told(what: str, began: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.perf_counter() - began
    print(f"{what}: {seconds:.0f} s, {time.process_time():.0f} CPU s, peak memory {peak:.1f} GiB", flush=True)


def leg(name: str, work: Path, threads: int) -> None:
    """One part, in a process of its own: a resume must not lean on what the first run left in memory."""
    began, args = time.perf_counter(), arguments(work, threads)
    if name == "first":
        train_policy(dataclasses.replace(args, saving=dataclasses.replace(args.saving, stop_after=1)))
    elif name == "resume":
        train_policy(args)
        (save,) = saves_of(args.out)
        (work / "losses.json").write_text(json.dumps(TrainingState.read(save.folder / "state.pt").history["loss"]))
    else:
        (work / "plain.json").write_text(json.dumps(plain_loss(args)))
    told(name, began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a folder to make, of 30 GB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--leg", choices=("first", "resume", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    if options.leg:
        leg(options.leg, options.work, options.threads)
        return 0
    options.work.mkdir(parents=True)
    try:
        write_rows(options.work / "data", 2, 20)
        write_caches(options.work, LightWAMConfig.libero(), 40)
        for name in ("first", "resume", "plain"):
            words = ["--work", str(options.work), "--threads", str(options.threads), "--leg", name]
            subprocess.run([sys.executable, __file__, *words], check=True)
        losses, plain = (json.loads((options.work / f"{name}.json").read_text()) for name in ("losses", "plain"))
        ours = losses[0][1]
        print(f"losses {losses}; first {ours:.7f}, plain {plain:.7f}, relative difference {abs(ours / plain - 1):.2e}")
        return 0 if abs(ours / plain - 1) < 2**-8 else 1
    finally:
        shutil.rmtree(options.work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
