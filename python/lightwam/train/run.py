# SPDX-License-Identifier: Apache-2.0
"""One training run: steps, curves, saves and resuming, for every trainer that has networks and losses.

Everything random follows from (seed, step), so a resumed run continues exactly.
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightwam.arithmetic import default_arithmetic
from lightwam.errors import CheckpointError
from lightwam.files import replacing_file
from lightwam.progress import counting_bar
from lightwam.train.curves import Curves, History
from lightwam.train.device import mixed_precision
from lightwam.train.options import Schedule, TrainArgs

log = logging.getLogger(__name__)
RESUME_FILE = "resume.pt"


class TrainingRun(ABC):
    """Networks, their average where there is one, the optimiser, and what a resume point holds.

    A trainer builds its networks, hands them over, and adds three functions: `losses`, `validate`, `save_checkpoint`.

    Attributes:
        step: number of updates done.
        networks: what is trained, on `device`.
        average: averaged weights, updated after each step; None where a trainer has no use for them.
    """

    label: str
    """Name of the run beside its progress bar."""

    def __init__(
        self,
        args: TrainArgs,
        device: torch.device,
        networks: nn.Module,
        average: nn.Module | None = None,
        ema_decay: float = 0.0,
    ) -> None:
        """Start at step 0, or at the resume point of `args.out`. Raises `CheckpointError` if that does not fit."""
        self.args, self.device = args, device
        self.networks, self.average, self.ema_decay = networks, average, ema_decay
        options = args.optimizer
        self.optimizer = torch.optim.AdamW(
            networks.parameters(), lr=args.schedule.peak_learning_rate, betas=options.betas,
            weight_decay=options.weight_decay,
        )  # fmt: skip
        self.step = 0
        self.curves = Curves(args.out, self._resume())

    @abstractmethod
    def losses(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """(the loss to minimise, named losses to report) of a batch that `rng` draws."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Figures on held-out data; empty where nothing is held out."""

    @abstractmethod
    def save_checkpoint(self, folder: Path) -> None:
        """Write the checkpoint folder that the run is for."""

    def train_step(self) -> dict[str, Tensor]:
        """One update; returns the losses to report."""
        schedule = self.args.schedule
        rng = np.random.default_rng([schedule.seed, self.step])
        torch.manual_seed(int(rng.integers(2**31)))
        with mixed_precision(self.device):
            loss, reported = self.losses(rng)
        update(self.optimizer, loss, learning_rate(self.step, schedule), self.args.optimizer.gradient_clip)
        self.step += 1
        self._update_average()
        return reported

    @default_arithmetic
    def run(self) -> None:
        """Train to the last step, reporting and saving as it goes."""
        saving, recent = self.args.saving, list[dict[str, Tensor]]()
        last = min(self.args.schedule.steps, saving.stop_after or self.args.schedule.steps)
        began, first = time.perf_counter(), self.step
        with counting_bar(self.label, show=True) as show:
            while self.step < last:
                recent.append({name: value.detach() for name, value in self.train_step().items()})  # not waited for
                show(self.step, last)
                if self.step % saving.log_every == 0:
                    point = _means(recent)  # waits for the device
                    point["seconds_a_step"] = (time.perf_counter() - began) / (self.step - first)
                    self._report(point)
                    recent, began, first = [], time.perf_counter(), self.step
                if self.step % saving.save_every == 0 or self.step == last:
                    paused = time.perf_counter()
                    self._report(self.validate())
                    self.save()
                    began += time.perf_counter() - paused
        self.curves.close()

    def save(self) -> None:
        """Checkpoint, resume point, picture of the curves. A step counts as done once its checkpoint is written."""
        self.save_checkpoint(self.args.out / "checkpoint")
        state = {"networks": self.networks.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step,
                 "history": self.curves.history}  # fmt: skip
        if self.average is not None:
            state["average"] = self.average.state_dict()
        with replacing_file(self.args.out / RESUME_FILE) as building, building.open("wb") as file:
            torch.save(state, file)
        self.curves.draw(self.args.out / "losses.png")

    def _resume(self) -> History:
        """Take over the resume point, where there is one; returns the curves so far."""
        path = self.args.out / RESUME_FILE
        state = load_resume_point(path)
        if state is None:
            return {}
        try:
            self.networks.load_state_dict(state["networks"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = int(state["step"])
            history: History = state["history"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise CheckpointError(
                f"resume point {path} is of another run ({reason}): delete it to start again"
            ) from error
        return history

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is None:
            return
        # Early on, the average follows closely, so that it forgets the random start.
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        for averaged, current in zip(self.average.parameters(), self.networks.parameters(), strict=True):
            averaged.lerp_(current, 1.0 - decay)

    def _report(self, point: dict[str, float]) -> None:
        self.curves.add(self.step, point)
        log.info("step %d %s", self.step, {name: round(value, 4) for name, value in point.items()})


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


def learning_rate(step: int, schedule: Schedule, floor: float = 0.01) -> float:
    """Linear warm-up to the peak, then a cosine to `floor` times it at the last step."""
    peak, warmup = schedule.peak_learning_rate, schedule.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, schedule.steps - warmup))
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def update(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float, gradient_clip: float) -> None:
    """One step of the optimiser at this learning rate, with the norm of the whole gradient clipped."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        group["lr"] = rate
    nn.utils.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], gradient_clip)
    optimizer.step()


def _means(losses: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Mean of each named loss over the steps that reported some."""
    reported = [values for values in losses if values]
    names = reported[0] if reported else ()
    return {name: float(np.mean([float(values[name]) for values in reported])) for name in names}
