# SPDX-License-Identifier: Apache-2.0
"""Curves of a training run: kept for resuming, drawn as a picture, sent to TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightwam.errors import ConfigError
from lightwam.extras import missing_module
from lightwam.pictures import draw

WANDB_FILE = "wandb-run.txt"
"""In the run's folder: the run's name at Weights & Biases."""
History = dict[str, list[tuple[int, float]]]
"""Named scalars: (step, value) of each point."""


class Curves:
    """Named scalars by step. `wandb`: a project at Weights & Biases that gets them too."""

    def __init__(self, folder: Path, history: History, wandb: str | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.history = history
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))
        self._wandb: Any = None if wandb is None else _wandb_run(wandb, folder)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append one point to each named curve."""
        for name, value in values.items():
            self.history.setdefault(name, []).append((step, value))
            self._writer.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def draw(self, path: Path) -> None:
        """One panel a curve, logarithmic where all values are positive. A failure is a warning."""
        names = sorted(self.history)
        columns = min(3, max(1, len(names)))
        rows = math.ceil(len(names) / columns) or 1

        def fill(figure: Any) -> None:
            for place, name in enumerate(names):
                axes = figure.add_subplot(rows, columns, place + 1)
                steps, values = zip(*self.history[name], strict=True)
                axes.plot(steps, values, linewidth=1)
                axes.set_title(name, fontsize=9)
                axes.set_xlabel("step", fontsize=8)
                if min(values) > 0:
                    axes.set_yscale("log")
                axes.grid(alpha=0.3)

        draw(path, fill, size=(4.2 * columns, 2.8 * rows), dpi=110)

    def close(self) -> None:
        """Flush TensorBoard."""
        self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()


def require_wandb(project: str) -> Any:
    """The module wandb. Raises `ConfigError` where it is not installed."""
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(f"--wandb {project}: {missing_module('wandb')}") from error
    return wandb


def _wandb_run(project: str, folder: Path) -> Any:
    """The run at Weights & Biases, the same one each time that the training in this folder goes on."""
    wandb, note = require_wandb(project), folder / WANDB_FILE
    known = note.read_text(encoding="utf-8").strip() if note.exists() else None
    try:
        run = wandb.init(project=project, name=folder.name, dir=str(folder), id=known or None, resume="allow")
    except Exception as error:  # its own classes: no account, no network
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"--wandb {project}: {reason}: run 'wandb login', or set WANDB_MODE=offline") from error
    note.write_text(f"{run.id}\n", encoding="utf-8")
    return run
