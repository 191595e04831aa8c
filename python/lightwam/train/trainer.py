# SPDX-License-Identifier: Apache-2.0
"""The training loop: updates, curves, validation, saves and stops, for whatever is trained.

Everything random in an update follows from (seed, update, micro-batch), so a run that was stopped goes on exactly, and
several processes compute what one would.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lightwam.arithmetic import default_arithmetic
from lightwam.errors import TrainingError
from lightwam.progress import counting_bar
from lightwam.train.curves import Curves
from lightwam.train.device import to_device, warn_of_slow_bfloat16
from lightwam.train.distributed import World
from lightwam.train.loader import MicroBatch, Order
from lightwam.train.recipe import Recipe
from lightwam.train.rollouts import FOLDER, Simulate, roll_out
from lightwam.train.run_folder import RunFolder
from lightwam.train.step import TrainStep
from lightwam.train.stopping import StopRequest, stop_requests

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """A micro-batch on its device, with the noise and the times of its video pass where it has one."""

    batch: MicroBatch
    noise: Tensor | None = None
    timestep: Tensor | None = None


class Learner(Protocol):
    """Networks and the data that they learn from: all that an update needs."""

    @property
    def networks(self) -> nn.Module:
        """forward(batch, noise, timestep) -> losses by name."""
        ...

    def updates(self, first: int, last: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of this process for each update `first`, ..., `last` - 1."""
        ...

    def ready(self, batch: MicroBatch, generator: torch.Generator) -> Ready:
        """The micro-batch on the device, with what `generator` draws for it."""
        ...


class Subject(Learner, Protocol):
    """What a run trains: beside its updates, what comes of them."""

    label: str
    """Name beside the progress bar."""
    find_unused: bool
    """Whether some trained parameters get no gradient in some updates."""
    order: Order

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Figures on held-out data; pictures of them go to the folder. Called with the averaged weights in place.

        In the first process alone, or in all of them where each has a part of the weights; the first one writes.
        """
        ...

    def write_checkpoint(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the checkpoint folder that the run is for: `weights` of the networks, those that train float32."""
        ...


def make_step(
    networks: nn.Module, recipe: Recipe, steps: int, world: World | None = None, sharding: Any = "ddp",
    find_unused: bool = False,
) -> TrainStep:  # fmt: skip
    """The optimizer step of a recipe, over `steps` updates."""
    schedule, optimizer = recipe.schedule, recipe.optimizer
    warmup = schedule.warmup_steps
    return TrainStep(
        networks,
        learning_rate=schedule.peak_learning_rate,
        weight_decay=optimizer.weight_decay,
        warmup_steps=int(schedule.warmup_ratio * steps) if warmup is None else warmup,
        max_steps=steps,
        max_grad_norm=optimizer.gradient_clip if optimizer.clip else None,
        decay=schedule.decay,
        betas=optimizer.betas,
        eps=optimizer.eps,
        fused=optimizer.fused,
        autocast=torch.bfloat16 if recipe.computing.precision == "autocast" else None,
        ema_decay=optimizer.ema_decay,
        world=world,
        sharding=sharding,
        find_unused=find_unused,
    )


def steps_of(recipe: Recipe, order: Order) -> int:
    """Updates of a whole run."""
    return recipe.schedule.steps or recipe.schedule.epochs * order.updates


def generator_of(*numbers: int) -> torch.Generator:
    """A generator that follows from these numbers."""
    words = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


@dataclass
class Update:
    """One update that was done: its micro-batches and figures."""

    batches: Sequence[Ready]
    figures: dict[str, float]


def train(subject: Learner, step: TrainStep, recipe: Recipe, last: int, world: World | None = None) -> Iterator[Update]:
    """Do the updates from `step.step_count` up to `last`, one for each item.

    Raises `BadUpdate`, a `TrainingError` with the batches, where a loss or gradient is not finite.
    """
    world, seed, parts = world or World(), recipe.schedule.seed, recipe.schedule.accumulation
    for batches in subject.updates(step.step_count, last):
        number = step.step_count
        torch.manual_seed(int(generator_of(seed, number, world.rank).initial_seed()))  # dropout
        ready = [
            subject.ready(batch, generator_of(seed, number, turn * world.size + world.rank))
            for turn, batch in enumerate(batches)
        ]
        try:
            figures = step.step(
                [one.batch for one in ready], [one.noise for one in ready], [one.timestep for one in ready], parts=parts
            )
        except TrainingError as error:
            raise BadUpdate(str(error), ready) from error
        yield Update(ready, figures)


class BadUpdate(TrainingError):
    """An update whose loss or gradient is not finite, with its batches."""

    def __init__(self, message: str, ready: Sequence[Ready]) -> None:
        super().__init__(message)
        self.batches = [{**tensors_of(one.batch), **_drawn(one)} for one in ready]


def _drawn(one: Ready) -> dict[str, Tensor]:
    drawn = {"noise": one.noise, "timestep": one.timestep}
    return {name: tensor for name, tensor in drawn.items() if tensor is not None}


def tensors_of(batch: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """All tensors of a micro-batch, those within under dotted names."""
    found: dict[str, Tensor] = {}
    for name, value in batch.items():
        if isinstance(value, Tensor):
            found[prefix + name] = value
        elif isinstance(value, Mapping):
            found |= tensors_of(value, f"{prefix}{name}.")
    return found


def on_device(batch: Mapping[str, Any], device: torch.device) -> MicroBatch:
    """Every tensor of a micro-batch on the device; texts stay."""
    return {
        name: to_device(value, device) if isinstance(value, Tensor)
        else on_device(value, device) if isinstance(value, Mapping) else value
        for name, value in batch.items()
    }  # fmt: skip


class Trainer:
    """A run in its folder.

    Args:
        subject: what is trained.
        recipe: how.
        folder: the run's, entered.
        world: the processes that train together.
        sharding: how they share the model.
        simulate: makes the trials of the recipe's rollouts.

    Attributes:
        step: the optimizer step, with all weights and their averages.
        last: updates of the whole run.
    """

    def __init__(
        self, subject: Subject, recipe: Recipe, folder: RunFolder, world: World | None = None, sharding: Any = "ddp",
        simulate: Simulate | None = None,
    ) -> None:  # fmt: skip
        """Start at update 0, or where the folder's newest save is. Raises `CheckpointError` where that does not fit."""
        self.subject, self.recipe, self.folder, self.world = subject, recipe, folder, world or World()
        self.simulate = simulate
        self.world.barrier()  # the first process has entered the folder
        if self.world.is_first:
            warn_of_slow_bfloat16(self.world.device, recipe.computing.precision)
        self.last = steps_of(recipe, subject.order)
        self.step = make_step(subject.networks, recipe, self.last, self.world, sharding, subject.find_unused)
        state = folder.resume()
        if state is not None:
            self.step.load(state)
            log.info("going on after update %d", state.step)
        history = {} if state is None else state.history
        self.curves = Curves(folder.out, history, recipe.saving.wandb) if self.world.is_first else None
        self._figures: dict[str, float] = {}
        self._measured = -1

    @default_arithmetic
    def run(self) -> None:
        """Train to the last update, reporting and saving as it goes. SIGTERM and Ctrl-C save first."""
        saving = self.recipe.saving
        last = min(self.last, saving.stop_after or self.last)
        speed = _Speed()
        with stop_requests() as stop, self._bar() as show, self._bad_batches():
            for update in train(self.subject, self.step, self.recipe, last, self.world):
                done = self.step.step_count
                speed.add(update.figures)
                show(done, last)
                if done % saving.log_every == 0 or done == last:
                    self._report(speed.point(self.recipe, self.world))
                    speed = _Speed()
                paused = time.perf_counter()
                if self._between(done, last, stop):
                    break
                speed.began += time.perf_counter() - paused
        if self.curves is not None:
            self.curves.close()

    def _between(self, done: int, last: int, stop: StopRequest) -> bool:
        """Rollouts, validation and saving where they are due; whether the run is to end here."""
        saving, every = self.recipe.saving, self.recipe.rollouts.rollout_every
        stopping = self.world.agree(stop.signal)
        if every and done % every == 0 and not stopping:
            self.roll_out(stop)
            stopping = self.world.agree(stop.signal)
        saves = done % saving.save_every == 0 or done == last or bool(stopping)
        validates = saves if saving.eval_every is None else bool(saving.eval_every) and done % saving.eval_every == 0
        if validates and not stopping:
            self.validate()
        if saves:
            self.save()
        return bool(stopping)

    def roll_out(self, stop: StopRequest) -> dict[str, float]:
        """Success of the averaged weights in a simulator, into the curves. All processes call it."""
        weights = {**self._whole_weights(), **self.step.trained_weights()}

        def make(tick: Callable[[], object]) -> Mapping[str, float]:
            assert self.simulate is not None
            folder = self.folder.out / FOLDER
            write = lambda path: self.subject.write_checkpoint(path, weights)  # noqa: E731
            return self.simulate(self.step.step_count, write, folder, tick)

        figures = roll_out(self.world, stop, self.recipe.rollouts.rollout_minutes, make)
        self._measure(figures)
        return figures

    def _measure(self, figures: Mapping[str, float]) -> None:
        """Report figures of the networks as they are, and keep them for a save at this step."""
        same = self._measured == self.step.step_count
        self._figures = {**(self._figures if same else {}), **figures}
        self._measured = self.step.step_count
        self._report(figures)

    def _whole_weights(self) -> Mapping[str, Tensor]:
        return self.step.full_weights() if self.step.shared.in_parts else self.subject.networks.state_dict()

    def validate(self) -> dict[str, float]:
        """Figures of the averaged weights on held-out data, into the curves; the networks train on as before."""
        training, networks, shared = self.subject.networks.training, self.subject.networks, self.step.shared
        figures: dict[str, float] = {}
        with self.step.averaged(), self.step.computing():
            networks.eval()
            try:
                if self.world.is_first or shared.in_parts:
                    done, out = self.step.step_count, self.folder.out
                    figures = shared.evaluate(lambda: self.subject.validate(done, out))
            finally:
                networks.train(training)
        self._measure(figures)
        return figures

    def save(self) -> None:
        """Commit a save: checkpoint, state, curves. All processes call it."""
        done, order = self.step.step_count, self.subject.order
        epoch, place = divmod(done, order.updates)
        state = self.step.state()
        whole = self._whole_weights()
        if not self.world.is_first:
            return
        weights = {**whole, **(state.average or state.weights)}
        assert self.curves is not None
        position = {"epoch": epoch, "batch": place * order.accumulation * order.world}
        state = replace(state, position=position, history=self.curves.history)
        figures = self._figures if self._measured == done else {}
        self.folder.save(state, lambda path: self.subject.write_checkpoint(path, weights), figures)
        self.curves.draw(self.folder.out / "losses.png")

    def _report(self, point: Mapping[str, float]) -> None:
        if self.curves is not None and point:
            self.curves.add(self.step.step_count, point)
            log.info("step %d %s", self.step.step_count, {name: float(f"{v:.4g}") for name, v in point.items()})

    def _bar(self) -> Any:
        return counting_bar(self.subject.label, show=self.world.is_first)

    @contextlib.contextmanager
    def _bad_batches(self) -> Iterator[None]:
        try:
            yield
        except BadUpdate as error:
            about = {"seed": self.recipe.schedule.seed, "rank": self.world.rank}
            raise self.folder.bad_batch(error, self.step.step_count, error.batches, about) from error


class _Speed:
    """Means of the figures since the last point, and the rate."""

    def __init__(self) -> None:
        self.began, self.figures = time.perf_counter(), list[dict[str, float]]()

    def add(self, figures: dict[str, float]) -> None:
        self.figures.append(figures)

    def point(self, recipe: Recipe, world: World) -> dict[str, float]:
        """Means, seconds an update, samples a second (accumulation and all processes counted), GPU memory."""
        names = dict.fromkeys(name for figures in self.figures for name in figures)
        point = {n: float(np.mean([figures[n] for figures in self.figures if n in figures])) for n in names}
        seconds = (time.perf_counter() - self.began) / len(self.figures)
        samples = recipe.schedule.batch * recipe.schedule.accumulation * world.size
        point |= {"seconds_a_step": seconds, "samples_per_second": samples / seconds}
        if world.device.type == "cuda":
            point["gpu_memory_gb"] = torch.cuda.max_memory_allocated(world.device) / 1e9
        return point
