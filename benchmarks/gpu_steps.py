# SPDX-License-Identifier: Apache-2.0
"""What a GPU check measures, each step in a process of its own: writes its result as JSON.

python benchmarks/gpu_steps.py kernels OUT --cache FOLDER [--tactics N]
python benchmarks/gpu_steps.py policy OUT --engine FILE [--runs N]
python benchmarks/gpu_steps.py tune OUT --engine FILE [--repeats N]
python benchmarks/gpu_steps.py pytorch OUT --size libero [--runs N] [--compile]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from gpu_driver import Gpu, GpuFacts
from numpy.typing import NDArray

from lightwam.files import replacing_file

#: The least cosine of the GPU's actions and the CPU's, by the engine's precision. f32: sums in another order.
#: bf16: the same roundings at other places. f16: roundings that the CPU does not make. int8, fp8: values
#: beside a tie fall to the other step.
GATES: Mapping[str, float] = {"f32": 0.99999, "bf16": 0.999, "f16": 0.9999, "int8": 0.99, "fp8": 0.99}
OBSERVATIONS = 3
WARM_UP = 10
STAGE_RUNS = 20


def check_policy(gpu: Gpu, engine: Path, runs: int, warm_up: int = WARM_UP) -> dict[str, Any]:
    """`Policy` on the GPU against the CPU on the same observations; then the time of a chunk, and memory."""
    from lightwam.engine.inputs import random_observation
    from lightwam.runtime import Policy

    before = gpu.memory()[0]
    began = time.perf_counter()
    policies = {"cuda": Policy(engine, device="cuda", unfamiliar="ignore")}
    load = time.perf_counter() - began
    policies["cpu"] = Policy(engine, device="cpu", unfamiliar="ignore")
    metadata = policies["cpu"].metadata
    rng = np.random.default_rng(0)
    observations = [random_observation(metadata["policy"], rng) for _ in range(OBSERVATIONS)]
    chunks = {name: [_chunk(policy, seen) for seen in observations] for name, policy in policies.items()}
    cosines = [cosine(ours, theirs) for ours, theirs in zip(chunks["cuda"], chunks["cpu"], strict=True)]
    policy, gate = policies["cuda"], GATES[metadata["precision"]]
    for index in range(warm_up):
        policy.infer(observations[index % OBSERVATIONS])
    seconds, host = [], []
    for index in range(runs):
        began = time.perf_counter()
        seconds.append(policy.infer(observations[index % OBSERVATIONS]).timings["total"])
        host.append(time.perf_counter() - began)
    chunks_by_stage = [policy.infer(observations[0], by_stage=True).timings for _ in range(STAGE_RUNS)]
    return {
        "engine": engine.name,
        "precision": metadata["precision"],
        "execution_info": policy.execution_info,
        "cosines": cosines,
        "gate": gate,
        "ok": min(cosines) >= gate,
        "load_seconds": load,
        "seconds": percentiles(seconds),
        "python_seconds": percentiles(host),
        "stages": {
            stage: float(np.median([timings[stage] for timings in chunks_by_stage]))
            for stage in chunks_by_stage[0]
            if stage != "total"
        },
        "device_memory_bytes": before - gpu.memory()[0],
    }


def tune_engine(facts: GpuFacts, engine: Path, repeats: int) -> dict[str, Any]:
    """`lightwam tune`, which writes its choice beside the engine; the times of its launches beside the roofline."""
    from gpu_plan import launch_times

    from lightwam.cli.tune import TuneArgs, tune

    tuning = tune(TuneArgs(engine, repeats=repeats))
    return {"gpu": asdict(facts), **launch_times(facts, engine, tuning), "ok": True}


def _chunk(policy: Any, seen: Mapping[str, Any]) -> NDArray[np.float64]:
    known = policy.instructions
    policy.set_instruction(known[0] if known else "pick up the object")
    actions: NDArray[np.float64] = policy.infer(seen).actions.astype(np.float64)
    return actions


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of two arrays as vectors; NaN counts as -1."""
    value = float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return value if np.isfinite(value) else -1.0


def percentiles(samples: list[float]) -> dict[str, float]:
    """p50, p95, p99, least, and how many."""
    named = {f"p{p}": float(np.percentile(samples, p)) for p in (50, 95, 99)}
    return {**named, "least": min(samples), "runs": len(samples)}


def measure_pytorch(size: str, runs: int, compiled: bool) -> dict[str, Any]:
    """The published, unfolded graph in PyTorch on the GPU, bf16: a chunk from images to actions."""
    import torch
    from contenders import Setting, observation
    from eager import EagerPolicy

    setting = Setting(size, Path(), 1)
    policy = EagerPolicy(setting.config, torch.bfloat16, device="cuda")
    if compiled:
        policy.compile(freeze=False)
    observations = [observation(setting, index) for index in range(OBSERVATIONS)]
    began = time.perf_counter()
    for _ in range(3 if compiled else 1):
        policy.infer(observations[0]).cpu()
    first = time.perf_counter() - began
    for index in range(WARM_UP):
        policy.infer(observations[index % OBSERVATIONS]).cpu()
    seconds = []
    for index in range(runs):
        began = time.perf_counter()
        policy.infer(observations[index % OBSERVATIONS]).cpu()  # waits for the GPU
        seconds.append(time.perf_counter() - began)
    return {
        "contender": f"PyTorch {torch.__version__}, {'torch.compile' if compiled else 'eager'}, {size}, bf16",
        "seconds": percentiles(seconds),
        "first_seconds": first,
        "device_memory_bytes": torch.cuda.max_memory_allocated(),
    }


def run(step: str, arguments: argparse.Namespace, gpu: Gpu) -> dict[str, Any]:
    """One step's result; `ok` is false where something is wrong rather than missing."""
    if step == "kernels":
        from gpu_cases import check_kernels

        target, jobs = gpu.facts().target, os.cpu_count() or 1
        result = check_kernels(gpu, target, arguments.cache, jobs, most_tactics=arguments.tactics)
        return {**result, "ok": not result["faults"] and not result["refused"]}
    if step == "policy":
        return check_policy(gpu, arguments.engine, arguments.runs)
    if step == "tune":
        return tune_engine(gpu.facts(), arguments.engine, arguments.repeats)
    return {**measure_pytorch(arguments.size, arguments.runs, arguments.compile), "ok": True}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("kernels", "tune", "policy", "pytorch"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--cache", type=Path, help="folder of compiled kernels")
    parser.add_argument("--size", choices=("nano", "libero"), default="libero")
    parser.add_argument("--runs", type=int, default=200, help="chunks that count")
    parser.add_argument("--repeats", type=int, default=20, help="chunks timed with each tactic")
    parser.add_argument("--tactics", type=int, default=1, help="tactics of each matmul to check")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    arguments = parser.parse_args()
    with Gpu() as gpu:
        result = run(arguments.step, arguments, gpu)
    with replacing_file(arguments.out) as path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
