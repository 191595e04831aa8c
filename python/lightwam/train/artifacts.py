# SPDX-License-Identifier: Apache-2.0
"""What a training run leaves behind beside its checkpoint folder: resume points, curves, and a loss picture."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lightwam.errors import CheckpointError, ConfigError, DataError


def check_options(args: Any) -> None:
    """Raise `ConfigError` for options of a training run (a dataclass) that lie out of range; absent ones are fine."""
    least = {"steps": 1, "batch": 1, "clip_batch": 1, "video_batch": 0, "clip_every": 0, "future_stride": 1,
             "log_every": 1, "save_every": 1, "seed": 0, "threads": 1, "stop_after": 1, "hidden": 1, "layers": 1,
             "replan_steps": 1}  # fmt: skip
    for name, smallest in least.items():
        value = getattr(args, name, None)
        if value is not None and value < smallest:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}: use at least {smallest}")
    held_out = getattr(args, "held_out", 0.0)
    if not 0.0 <= held_out < 1.0:
        raise ConfigError(f"--held-out is {held_out}: use a share from 0 to below 1")
    if not args.data:
        raise DataError("no data set is given: name at least one folder after --data")


def save_resume_point(path: Path, state: Mapping[str, Any]) -> None:
    """Write a resume point (tensors, numbers, lists, mappings)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    torch.save(dict(state), temporary)
    os.replace(temporary, path)


def load_resume_point(path: Path) -> dict[str, Any] | None:
    """The resume point, or None when there is none. Raises `CheckpointError` when it is damaged."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")  # wherever it trained
    except Exception as error:  # torch.load raises many classes on a damaged file
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"resume point {path} is damaged ({reason}): delete it to start again") from error
    return state


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Around the use of a resume point: what does not fit the run becomes one `CheckpointError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"resume point {path} is of another run ({reason}): delete it to start again") from error


def learning_rate(step: int, peak: float, warmup_steps: int, total_steps: int, floor: float = 0.01) -> float:
    """Linear warm-up to `peak`, then cosine to `floor` times it at `total_steps`."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress)))


class Curves:
    """Named scalars by step: kept for resume and picture, and sent to tensorboard."""

    def __init__(self, folder: Path, history: dict[str, list[tuple[int, float]]] | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.history: dict[str, list[tuple[int, float]]] = history or {}
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append one point to each named curve."""
        for name, value in values.items():
            self.history.setdefault(name, []).append((step, float(value)))
            self._writer.add_scalar(name, value, step)

    def draw(self, path: Path) -> None:
        """One panel a curve, logarithmic where all values are positive."""
        from matplotlib.figure import Figure

        names = sorted(self.history)
        columns = min(3, max(1, len(names)))
        rows = math.ceil(len(names) / columns) or 1
        figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
        for place, name in enumerate(names):
            axes = figure.add_subplot(rows, columns, place + 1)
            steps, values = zip(*self.history[name], strict=True)
            axes.plot(steps, values, linewidth=1)
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("step", fontsize=8)
            if min(values) > 0:
                axes.set_yscale("log")
            axes.grid(alpha=0.3)
        temporary = path.with_name(path.stem + ".tmp.png")
        figure.savefig(temporary, dpi=110)
        os.replace(temporary, path)

    def close(self) -> None:
        """Flush tensorboard."""
        self._writer.close()
