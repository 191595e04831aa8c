# SPDX-License-Identifier: Apache-2.0
"""Measures an engine file's chunks on random observations, in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightwam.arithmetic import default_arithmetic
from lightwam.bench.figures import Record, Seconds, peak_memory_bytes
from lightwam.engine.inputs import random_observation
from lightwam.errors import EngineError
from lightwam.progress import progress_bar
from lightwam.runtime import Policy
from lightwam.runtime.policy import DeviceName
from lightwam.workers import WorkerDied, run_jobs

MAX_IMAGE_SIZE = 8192


@dataclass(frozen=True)
class BenchOptions:
    """How a chunk is measured."""

    runs: int = 200
    """Chunks that count, after the warm-up."""
    warmup: int = 10
    """Chunks that do not count."""
    image_size: int = 256
    """Side of the square camera images, pixels."""
    instruction: str = "pick up the object"
    """The instruction when the engine carries none of its own."""


class Measurement(NamedTuple):
    """A record, the times of every stage (`total` among them), and one line on what ran and why."""

    record: Record
    samples: dict[str, Seconds]
    execution_info: str


def square_observation(policy: Policy, image_size: int) -> dict[str, Any]:
    """A random observation with square images of that side; the same one every time, whatever the state's units."""
    section = {**policy.metadata["policy"], "normalizer": None}
    return random_observation(section, np.random.default_rng(0), (image_size, image_size))


def set_any_instruction(policy: Policy, otherwise: str) -> None:
    """Tell the policy the first instruction that it knows, or `otherwise`."""
    policy.set_instruction(policy.instructions[0] if policy.instructions else otherwise)


def measure_alone(engine: Path, device: DeviceName, threads: int | None, options: BenchOptions) -> Measurement:
    """`measure_engine` in a fresh process, so that memory and start-up time are the engine's own."""
    measure = functools.partial(measure_engine, engine, device, options=options)
    with contextlib.closing(run_jobs(measure, [threads], attempts=1)) as results:
        try:
            _, measurement = next(results)
        except WorkerDied as died:
            raise EngineError(f"{engine}: the measuring {died}, mostly for lack of memory: free some") from None
    return measurement


@default_arithmetic
def measure_engine(engine: Path, device: DeviceName, threads: int | None, options: BenchOptions) -> Measurement:
    """Load, warm up and measure in this process. Raises `EngineError`, `DeviceError`."""
    begin = time.perf_counter()
    policy = Policy(engine, device=device, threads=threads, unfamiliar="ignore")  # it sees random numbers
    loaded = time.perf_counter()
    set_any_instruction(policy, options.instruction)
    observation = square_observation(policy, options.image_size)
    policy.infer(observation)
    first = time.perf_counter()
    times = _chunk_times(policy, observation, options)
    samples = {stage: Seconds.of(values.tolist()) for stage, values in times.items()}
    metadata = policy.metadata
    gflop = metadata.get("provenance", {}).get("gflop")  # of a chunk, as the export counted them
    record = Record(
        suite="chunk",
        name=metadata["name"],
        contender=f"lightwam-{metadata['precision']}{'-cuda' if policy.device == 'cuda' else ''}",
        precision=metadata["precision"],
        threads=policy.threads,
        seconds=samples["total"],
        stages={stage: seconds.p50 for stage, seconds in samples.items() if stage != "total"},
        flops=None if gflop is None else float(gflop) * 1e9,
        load_seconds=loaded - begin,
        first_chunk_seconds=first - begin,
        peak_memory_bytes=peak_memory_bytes(),
    )
    return Measurement(record, samples, policy.execution_info)


def _chunk_times(policy: Policy, observation: dict[str, Any], options: BenchOptions) -> dict[str, NDArray[np.float64]]:
    """Seconds of every counted chunk, by stage (`total` among them): {stage: [runs]}.

    On a GPU the stages are of other chunks, run after those whose total counts: what times stages costs time.
    """
    for _ in range(options.warmup):
        policy.infer(observation)

    def times(by_stage: bool, label: str) -> dict[str, NDArray[np.float64]]:
        chunks = []
        with progress_bar(label, options.runs, show=True) as advance:
            for _ in range(options.runs):
                chunks.append(policy.infer(observation, by_stage=by_stage).timings)
                advance(1)
        return {stage: np.array([timings[stage] for timings in chunks]) for stage in chunks[0]}

    samples = times(False, "measuring")
    return samples if policy.device != "cuda" else times(True, "measuring stages") | samples
