# SPDX-License-Identifier: Apache-2.0
"""Options of the trainers, in groups: a shared group stands once, a trainer's own group extends it.

The command line shows them flat (`--steps`, not `--schedule.steps`), each group under a heading of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightwam.config.selection import Selection
from lightwam.data.augment import Augmentation
from lightwam.errors import ConfigError
from lightwam.train import recipe


@dataclass(frozen=True, kw_only=True)
class Inputs(Selection):
    """What a run reads."""

    data: tuple[Path, ...]
    """Folders of data sets: LeRobot, real-robot HDF5, RoboTwin."""
    config: str = "nano"
    """Preset (libero, robotwin, nano) or JSON file: a configuration, or a robot on top of one."""


@dataclass(frozen=True, kw_only=True)
class FrameInputs(Inputs):
    """What a run reads."""

    cache: Path
    """Folder of decoded frames and latents; a run adds what is missing."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length, batches and learning rate."""

    steps: int
    """Updates of the weights."""
    batch: int
    """Samples (of the VAE: frames) of each step."""
    peak_learning_rate: float
    """Reached at the end of a linear warm-up; a cosine then falls to 1 % of it."""
    warmup_steps: int
    seed: int = 42
    """Batches and noise follow from it and the step alone."""


@dataclass(frozen=True, kw_only=True)
class VAESchedule(Schedule):
    """Length, batches and learning rate."""

    clip_every: int = 6
    """Every so many steps, clips instead of frames; 0 for frames only."""
    clip_batch: int = 2
    """Clips of such a step."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW."""

    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    gradient_clip: float = 1.0
    """Largest norm of the whole gradient."""


@dataclass(frozen=True, kw_only=True)
class VAELosses:
    """Weights of the losses."""

    kl_weight: float = 1e-5
    foreground_weight: float = 8.0
    """How much more a pixel counts that differs from the mean image."""
    localisation_weight: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Validation, curves and saving."""

    held_out: float = 0.04
    """Share of the episodes that is kept for validation."""
    log_every: int = 50
    """Steps between points of the loss curves."""
    save_every: int = 250
    """Steps between saves; each one validates first."""
    stop_after: int | None = None
    """Save and stop at this step of the schedule, to continue later."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where training computes."""

    device: str = "cpu"
    """cpu, cuda (the first GPU) or cuda:N. Data stays in CPU memory, batches are copied."""
    threads: int = 1
    """CPU threads of PyTorch."""


@dataclass(frozen=True, kw_only=True)
class TrainArgs:
    """What a run in a folder of its own reads."""

    inputs: FrameInputs
    out: Path
    """Folder of the run: checkpoint/, saves/, curves."""
    allow_changed: tuple[str, ...] = ()
    """What may differ from the run that is resumed, by the names that its refusal gives."""
    schedule: Schedule
    optimizer: Optimizer
    saving: Saving = Saving()
    machine: Machine = Machine()


@dataclass(frozen=True, kw_only=True)
class VAETrainArgs(TrainArgs):
    """Train the small VAE of a policy; a run that was interrupted resumes."""

    schedule: VAESchedule = VAESchedule(steps=2400, batch=8, peak_learning_rate=2e-3, warmup_steps=50)
    optimizer: Optimizer = Optimizer(weight_decay=0.0, betas=(0.9, 0.99))
    losses: VAELosses = VAELosses()
    precision: Literal["autocast", "float32"] = "autocast"
    """Of matrix products and convolutions: bfloat16, or float32, faster on CPUs without instructions for bfloat16."""
    saving: Saving = Saving(held_out=0.05, save_every=200)
    augmentation: Augmentation = recipe.NO_AUGMENTATION


@dataclass(frozen=True, kw_only=True)
class BlindTrainArgs:
    """Train the baseline that sees the robot's state and knows the instruction, but sees no image."""

    inputs: Inputs
    out: Path
    """File to write (.npz)."""
    hidden: int = 256
    """Width of the hidden layers."""
    layers: int = 3
    """Linear layers, the last one included."""
    replan_steps: int | None = None
    """Actions to execute of each chunk (default: the configuration's own)."""
    schedule: recipe.Schedule = field(
        default_factory=lambda: recipe.Schedule(steps=6000, batch=256, peak_learning_rate=1e-3, warmup_steps=100)
    )
    optimizer: recipe.Optimizer = field(default_factory=lambda: recipe.Optimizer(betas=(0.9, 0.999), clip=False))
    machine: Machine = Machine()


_LEAST = {
    "steps": 1, "batch": 1, "clip_batch": 1, "video_batch": 0, "clip_every": 0, "seed": 0, "warmup_steps": 0,
    "future_stride": 1, "log_every": 1, "save_every": 1, "stop_after": 1, "threads": 1, "hidden": 1,
    "layers": 1, "replan_steps": 1,
}  # fmt: skip


def flat_options(args: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of every option in a dataclass of groups."""
    for entry in dataclasses.fields(args):
        value = getattr(args, entry.name)
        if dataclasses.is_dataclass(value):
            yield from flat_options(value)
        else:
            yield entry.name, value


def check_options(args: TrainArgs | BlindTrainArgs) -> None:
    """Raise `ConfigError` for options of a run that lie out of range."""
    for name, value in flat_options(args):
        if name in _LEAST and value is not None and value < _LEAST[name]:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}: use at least {_LEAST[name]}")
        if isinstance(value, float) and (math.isnan(value) or (value < 0 and name != "gradient_clip")):
            raise ConfigError(f"--{name.replace('_', '-')} is {value}: use a number from 0 on")
        if name == "gradient_clip" and value is not None and not value > 0:
            raise ConfigError(f"--gradient-clip is {value}: use a number above 0")
        if name == "held_out" and not 0.0 <= value < 1.0:
            raise ConfigError(f"--held-out is {value}: use a share from 0 to below 1")
