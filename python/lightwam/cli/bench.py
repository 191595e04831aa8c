# SPDX-License-Identifier: Apache-2.0
"""`lightwam bench`: latency of an engine file on this machine, per stage: a table, JSON and a stacked-bar picture."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

from lightwam.cli import roofline
from lightwam.cli.figures import Record, Seconds, peak_memory_bytes, write_figures
from lightwam.cli.roofline import ModelledGpu
from lightwam.errors import ConfigError, EngineError
from lightwam.kernels.targets import GPUS
from lightwam.runtime import Policy
from lightwam.runtime.policy import DeviceName

MAX_IMAGE_SIZE = 8192


@dataclass(frozen=True)
class BenchArgs:
    """Measure the latency of one action chunk on random observations."""

    engine: Path | None = None
    """Engine file (*.lwam); the bundled policy when absent."""
    runs: int = 200
    """Chunks that count, after the warm-up."""
    warmup: int = 10
    """Chunks that do not count."""
    threads: tuple[int, ...] = ()
    """Numbers of processor threads, each measured in a process of its own; all cores when absent."""
    image_size: int = 256
    """Side of the square camera images, pixels."""
    instruction: str = "pick up the object"
    """What the policy is told when the engine carries no instruction of its own."""
    out: Path | None = None
    """Folder for bench.json and bench.png (or roofline.json); nothing is written when absent."""
    roofline: bool = False
    """Predict a chunk on a GPU instead, from the FLOPs and bytes of the engine's launch plan. Measures nothing."""
    device: DeviceName | ModelledGpu | None = None
    """What runs: cpu (when absent); cuda: an engine made by `lightwam compile`, on a GPU or not at all; auto: a GPU if
    it can, else cpu. With --roofline the GPU that the prediction is for; orin when absent."""

    @property
    def runs_on(self) -> DeviceName:
        """The device of a measurement. Raises `ConfigError` for a GPU that only --roofline knows."""
        if self.device is None:
            return "cpu"
        if self.device in get_args(DeviceName):
            return cast(DeviceName, self.device)
        raise ConfigError(f"--device {self.device} is a GPU of --roofline: add that, or measure on cpu, cuda or auto")

    @property
    def predicted_for(self) -> ModelledGpu:
        """The GPU of a prediction. Raises `ConfigError` for a device that is measured on."""
        if self.device is None:
            return "orin"
        if self.device in get_args(DeviceName):
            known = ", ".join(GPUS)
            raise ConfigError(f"--device {self.device} is no GPU that --roofline knows: give one of {known}")
        return self.device


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
    """Seconds of every counted chunk, by stage (`total` among them): {stage: [runs]}.

    On a GPU the stages are of other chunks, run after those whose total counts: what times stages costs time.
    """
    from rich.progress import track

    rng = np.random.default_rng(0)
    observation = random_observation(policy.metadata, arguments.image_size, rng)
    for _ in range(arguments.warmup):
        policy.infer(observation)
    runs = range(arguments.runs)
    chunks = [policy.infer(observation).timings for _ in track(runs, description="measuring")]
    samples = {stage: np.array([timings[stage] for timings in chunks]) for stage in chunks[0]}
    if policy.device != "cuda":
        return samples
    chunks = [policy.infer(observation, by_stage=True).timings for _ in track(runs, description="measuring stages")]
    return {stage: np.array([timings[stage] for timings in chunks]) for stage in chunks[0]} | samples


class Measurement(NamedTuple):
    """A record, the times of every stage (`total` among them), and one line on what ran and why."""

    record: Record
    samples: dict[str, Seconds]
    execution_info: str


def measure_engine(engine: Path, threads: int | None, arguments: BenchArgs) -> Measurement:
    """Load, warm up and measure in this process. Raises `EngineError`, `DeviceError`."""
    begin = time.perf_counter()
    policy = Policy(engine, device=arguments.runs_on, threads=threads)
    loaded = time.perf_counter()
    policy.set_instruction(policy.instructions[0] if policy.instructions else arguments.instruction)
    policy.infer(random_observation(policy.metadata, arguments.image_size, np.random.default_rng(0)))
    first = time.perf_counter()
    samples = {stage: Seconds.of(values.tolist()) for stage, values in measure(policy, arguments).items()}
    record = Record(
        suite="chunk",
        name=policy.metadata["name"],
        contender=f"lightwam-{policy.metadata['precision']}{'-cuda' if policy.device == 'cuda' else ''}",
        precision=policy.metadata["precision"],
        threads=policy.threads,
        seconds=samples["total"],
        stages={stage: seconds.p50 for stage, seconds in samples.items() if stage != "total"},
        flops=_flops(policy.metadata),
        load_seconds=loaded - begin,
        first_chunk_seconds=first - begin,
        peak_memory_bytes=peak_memory_bytes(),
    )
    return Measurement(record, samples, policy.execution_info)


def _flops(metadata: dict[str, Any]) -> float | None:
    """Products of a chunk, as the export counted them."""
    gflop = metadata.get("provenance", {}).get("gflop")
    return None if gflop is None else float(gflop) * 1e9


def print_table(measurement: Measurement, title: str) -> None:
    """Percentiles of every stage, what ran, start-up and memory on the terminal."""
    from rich.console import Console
    from rich.table import Table

    record = measurement.record
    table = Table("stage", "p50 ms", "p95 ms", "p99 ms", title=title)
    for stage, seconds in measurement.samples.items():
        table.add_row(stage, *(f"{value * 1e3:.2f}" for value in (seconds.p50, seconds.p95, seconds.p99)))
    console = Console()
    console.print(table)
    console.print(measurement.execution_info, markup=False, highlight=False, soft_wrap=True)
    memory = "unknown" if record.peak_memory_bytes is None else f"{record.peak_memory_bytes / 1e6:.0f} MB"
    console.print(
        f"ready after {record.load_seconds:.2f} s, first chunk after {record.first_chunk_seconds:.2f} s, "
        f"peak memory {memory}",
        highlight=False,
    )


def draw(records: list[Record], title: str, path: Path) -> None:
    """The median of every stage as one stacked bar a record."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 1.4 + 0.8 * len(records)), layout="constrained")
    for row, record in enumerate(records):
        left = 0.0
        axes.set_prop_cycle(None)  # the same colours in every bar
        for stage, seconds in (record.stages or {"chunk": record.seconds.p50}).items():
            label = f"{stage} {seconds * 1e3:.1f} ms" if row == 0 else None
            axes.barh([row], [seconds * 1e3], left=left, label=label)
            left += seconds * 1e3
    axes.set_yticks(range(len(records)), [_where(record) for record in records])
    axes.invert_yaxis()
    axes.set_xlabel("median of one chunk, ms")
    axes.set_title(title)
    figure.legend(ncols=5, loc="outside lower center", frameon=False)
    temporary = path.with_name(path.stem + ".tmp.png")
    figure.savefig(temporary, dpi=150)
    pyplot.close(figure)
    os.replace(temporary, path)


def main(arguments: BenchArgs) -> int:
    """Run the measurement; returns the exit status. Errors: ConfigError for a count or size out of range."""
    _check(arguments)
    from lightwam.assets import bundled_engine

    engine = arguments.engine or bundled_engine()
    if arguments.roofline:
        return roofline.main(engine, arguments.predicted_for, arguments.out)
    records: list[Record] = []
    for threads in arguments.threads or (None,):
        measurement = _in_own_process(engine, threads, arguments)
        record = measurement.record
        title = f"{engine.name}, {record.precision}, {_where(record)}, {arguments.runs} chunks"
        print_table(measurement, title)
        records.append(record)
    if arguments.out is not None:
        write_figures(records, arguments.out / "bench.json", engine=engine.name)
        draw(records, engine.name, arguments.out / "bench.png")
        print(f"wrote {arguments.out / 'bench.json'} and {arguments.out / 'bench.png'}")
    return 0


def _where(record: Record) -> str:
    return f"{record.threads} thread(s)" if record.threads else "GPU"


def _in_own_process(engine: Path, threads: int | None, arguments: BenchArgs) -> Measurement:
    """`measure_engine` in a fresh process, so that memory and start-up time are the engine's own."""
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(measure_engine, engine, threads, replace(arguments, threads=())).result()
    except BrokenProcessPool:
        raise EngineError(f"{engine}: the measuring process was ended, mostly for lack of memory: free some") from None


def _check(arguments: BenchArgs) -> None:
    if min((arguments.runs, arguments.warmup, arguments.image_size, *arguments.threads)) < 1:
        raise ConfigError(
            f"--runs {arguments.runs}, --warmup {arguments.warmup}, --image-size {arguments.image_size}, "
            f"--threads {arguments.threads}: each must be at least 1"
        )
    device = arguments.predicted_for if arguments.roofline else arguments.runs_on
    if arguments.threads and device == "cuda":
        raise ConfigError(f"--threads {arguments.threads} is of the processor, but --device is cuda: leave one out")
    if arguments.image_size > MAX_IMAGE_SIZE:
        raise ConfigError(f"--image-size is {arguments.image_size}: use at most {MAX_IMAGE_SIZE}")
