# SPDX-License-Identifier: Apache-2.0
"""Latency of one chunk, from uint8 camera images to actions: the C++ runtime beside eager PyTorch in the same run.

    pytest benchmarks                    nano
    pytest benchmarks --full-size        the 2-billion-parameter model as well (minutes, 16 GB of memory)

Figures, not verdicts: nothing here asserts a time. Quote ratios of medians on a quiet machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from eager import EagerPolicy

from lightwam.cli.export import ExportArgs, main
from lightwam.config import LightWAMConfig
from lightwam.runtime import Policy

SEED = 0


def observation(config: LightWAMConfig, size: int = 256) -> dict[str, Any]:
    """Random images of LIBERO's camera size and a random state."""
    rng = np.random.default_rng(SEED)
    images = {c.name: rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for c in config.cameras.cameras}
    return {"images": images, "state": rng.standard_normal(config.state_dim)}


@pytest.fixture
def threads(request: pytest.FixtureRequest, benchmark: Any) -> Iterator[int]:
    """--threads, for whoever is measured; recorded with the figures."""
    count: int = request.config.getoption("--threads")
    if count < 1:
        pytest.exit(f"--threads is {count}: use at least 1", returncode=2)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    benchmark.extra_info["threads"] = count
    yield count
    torch.set_num_threads(before)


def runtime_policy(engine: Path, threads: int) -> Policy:
    policy = Policy(engine, threads=threads, unfamiliar="ignore")
    policy.set_instruction(policy.instructions[0] if policy.instructions else "pick up the can")
    return policy


@pytest.fixture(scope="module")
def full_size_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bf16 engine of the LIBERO configuration with random weights: --engine, or made here (minutes)."""
    if not request.config.getoption("--full-size"):
        pytest.skip("the full-size model needs --full-size")
    given = request.config.getoption("--engine")
    if given is not None:
        return Path(given)
    path = tmp_path_factory.mktemp("engine") / "libero-random.lwam"
    main(ExportArgs(out=path, random="libero", precision="bf16", seed=SEED))
    return path


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.benchmark(group="nano, one chunk")
def test_nano_runtime(benchmark: Any, threads: int, tmp_path: Path, precision: Any) -> None:
    engine = tmp_path / "nano.lwam"
    main(ExportArgs(out=engine, random="nano", precision=precision, seed=SEED))
    policy = runtime_policy(engine, threads)
    seen = observation(LightWAMConfig.nano())
    chunk = benchmark.pedantic(policy.infer, args=(seen,), rounds=50, warmup_rounds=5)
    assert np.isfinite(chunk.actions).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.benchmark(group="nano, one chunk")
@pytest.mark.usefixtures("threads")
def test_nano_eager_pytorch(benchmark: Any, dtype: torch.dtype) -> None:
    policy = EagerPolicy(LightWAMConfig.nano(), dtype)
    seen = observation(LightWAMConfig.nano())
    actions = benchmark.pedantic(policy.infer, args=(seen,), rounds=50, warmup_rounds=5)
    assert torch.isfinite(actions).all()


@pytest.mark.benchmark(group="full size, one chunk, bf16")
def test_full_size_runtime(benchmark: Any, threads: int, full_size_engine: Path) -> None:
    policy = runtime_policy(full_size_engine, threads)
    seen = observation(LightWAMConfig.libero())
    chunk = benchmark.pedantic(policy.infer, args=(seen,), rounds=5, warmup_rounds=1)
    benchmark.extra_info["stages_s"] = {stage: round(seconds, 4) for stage, seconds in chunk.timings.items()}
    assert np.isfinite(chunk.actions).all()


@pytest.mark.benchmark(group="full size, one chunk, bf16")
@pytest.mark.usefixtures("threads")
def test_full_size_eager_pytorch(benchmark: Any, full_size_engine: Path) -> None:
    policy = EagerPolicy(LightWAMConfig.libero(), torch.bfloat16)
    seen = observation(LightWAMConfig.libero())
    actions = benchmark.pedantic(policy.infer, args=(seen,), rounds=5, warmup_rounds=1)
    assert torch.isfinite(actions).all()
