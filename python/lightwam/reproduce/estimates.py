# SPDX-License-Identifier: Apache-2.0
"""How long the steps of a plan take and how much disk they need, from the costs in the plan."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from lightwam.errors import ConfigError
from lightwam.reproduce.plan import Step

_RESERVE = 1.2  # times the estimate that must be free
_ENOUGH = 60.0  # seconds of finished steps from which this machine's pace is known


def seconds_of(step: Step, workers: int) -> float:
    """Estimated seconds; what `processes` share is divided among them."""
    fixed, varied = step.cost(step.seconds)
    return fixed + varied / (workers if step.workers == "processes" else 1)


def bytes_of(step: Step) -> float:
    """Estimated bytes on disk."""
    return 1e6 * sum(step.cost(step.megabytes))


def pace(done: Iterable[tuple[float, float]]) -> float:
    """How many times longer than estimated the finished steps took, from their (seconds, estimated seconds).

    1 where they are too few to tell.
    """
    pairs = list(done)
    took, estimated = (sum(pair[place] for pair in pairs) for place in (0, 1))
    return took / estimated if took > 0 and estimated >= _ENOUGH else 1.0


def clock(seconds: float) -> str:
    """`7:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def size(count: float) -> str:
    """`3.1 GB`, `12 MB` or `50 kB`."""
    if count >= 1e8:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def check_disk(folder: Path, steps: Iterable[Step]) -> None:
    """Raises ConfigError where the disk has no room for what the steps write."""
    needed = _RESERVE * sum(map(bytes_of, steps))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"the disk of {folder} has {size(free)} free, and about {size(needed)} are needed: free some, or give "
            "another --out"
        )


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
