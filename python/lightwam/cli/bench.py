# SPDX-License-Identifier: Apache-2.0
"""`lightwam bench`: latency of an engine file on this machine, per stage: a table, JSON and a stacked-bar picture."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightwam.errors import ConfigError
from lightwam.runtime import Policy

MAX_IMAGE_SIZE = 8192
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class BenchArgs:
    """Measure the latency of one action chunk on random observations."""

    engine: Path | None = None
    """Engine file (*.lwam); the bundled policy when absent."""
    runs: int = 200
    """Chunks that count, after the warm-up."""
    warmup: int = 10
    """Chunks that do not count."""
    threads: int | None = None
    """Threads of the runtime; all cores when absent."""
    image_size: int = 256
    """Side of the square camera images, pixels."""
    instruction: str = "pick up the object"
    """What the policy is told when the engine carries no instruction of its own."""
    out: Path | None = None
    """Folder for bench.json and bench.png; nothing is written when absent."""


def random_observation(metadata: dict[str, Any], image_size: int, rng: np.random.Generator) -> dict[str, Any]:
    """An observation of the engine's own cameras (or latents) and state width, filled with random numbers."""
    policy = metadata["policy"]
    state = rng.standard_normal(policy["state_width"]).astype(np.float32)
    if policy["starts_at"] == "latents":
        return {"latents": rng.standard_normal(policy["latent_shape"]).astype(np.float32), "state": state}
    shape = (image_size, image_size, 3)
    return {
        "images": {c["name"]: rng.integers(0, 256, shape, dtype=np.uint8) for c in policy["cameras"]},
        "state": state,
    }


def measure(policy: Policy, arguments: BenchArgs) -> dict[str, NDArray[np.float64]]:
    """Seconds of every counted chunk, by stage (`total` among them): {stage: [runs]}."""
    from rich.progress import track

    rng = np.random.default_rng(0)
    observation = random_observation(policy.metadata, arguments.image_size, rng)
    for _ in range(arguments.warmup):
        policy.infer(observation)
    chunks = [policy.infer(observation).timings for _ in track(range(arguments.runs), description="measuring")]
    return {stage: np.array([timings[stage] for timings in chunks]) for stage in chunks[0]}


def summarise(seconds: dict[str, NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """Milliseconds at the percentiles, by stage."""
    return {
        stage: {f"p{p}_ms": float(np.percentile(values, p) * 1e3) for p in PERCENTILES}
        for stage, values in seconds.items()
    }


def print_table(summary: dict[str, dict[str, float]], title: str) -> None:
    """The summary as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", *(f"p{p} ms" for p in PERCENTILES), title=title)
    for stage, row in summary.items():
        table.add_row(stage, *(f"{row[f'p{p}_ms']:.2f}" for p in PERCENTILES))
    Console().print(table)


def draw(summary: dict[str, dict[str, float]], title: str, path: Path) -> None:
    """The median of every stage as one stacked bar."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 2.2), layout="constrained")
    left = 0.0
    for stage, row in summary.items():
        if stage != "total":
            axes.barh([0], [row["p50_ms"]], left=left, label=f"{stage} {row['p50_ms']:.1f} ms")
            left += row["p50_ms"]
    axes.set_yticks([])
    axes.set_xlabel("median of one chunk, ms")
    axes.set_title(title)
    axes.legend(ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.35), frameon=False)
    temporary = path.with_name(path.stem + ".tmp.png")
    figure.savefig(temporary, dpi=150)
    pyplot.close(figure)
    os.replace(temporary, path)


def write_report(
    summary: dict[str, dict[str, float]], policy: Policy, engine: Path, arguments: BenchArgs, folder: Path
) -> None:
    """bench.json and bench.png in `folder`, each written under a temporary name and renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    report = {
        "engine": engine.name,
        "precision": policy.metadata["precision"],
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "runs": arguments.runs,
        "stages": summary,
    }
    temporary = folder / "bench.json.tmp"
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(temporary, folder / "bench.json")
    draw(summary, engine.name, folder / "bench.png")


def main(arguments: BenchArgs) -> int:
    """Run the measurement; returns the exit status. Errors: ConfigError for a count or size out of range."""
    if arguments.runs < 1 or arguments.warmup < 1 or arguments.image_size < 1:
        raise ConfigError(
            f"--runs {arguments.runs}, --warmup {arguments.warmup}, --image-size {arguments.image_size}: "
            "each must be at least 1"
        )
    if arguments.image_size > MAX_IMAGE_SIZE:
        raise ConfigError(f"--image-size is {arguments.image_size}: use at most {MAX_IMAGE_SIZE}")
    from lightwam.assets import bundled_engine

    engine = arguments.engine or bundled_engine()
    policy = Policy(engine, threads=arguments.threads)
    policy.set_instruction(policy.instructions[0] if policy.instructions else arguments.instruction)
    summary = summarise(measure(policy, arguments))
    print_table(summary, f"{engine.name}, {policy.metadata['precision']}, {arguments.runs} chunks")
    if arguments.out is not None:
        write_report(summary, policy, engine, arguments, arguments.out)
        print(f"wrote {arguments.out / 'bench.json'} and {arguments.out / 'bench.png'}")
    return 0
