# SPDX-License-Identifier: Apache-2.0
"""One optimizer step of Light-WAM, as the published trainer computes it.

One AdamW group decays everything that trains (biases, norms, modulation and queries included); the learning rate
follows `PublishedSchedule`; every micro-batch counts as one part of the mean. Source: the training code of Light-WAM
(arXiv 2606.08242); docs/reference/light-wam.md has the losses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightwam.errors import CheckpointError, ConfigError, DataError, TrainingError
from lightwam.model.fit import find_faults, refuse
from lightwam.train.average import Average
from lightwam.train.distributed import World
from lightwam.train.sharding import Sharding, SharedModel, like, load_optimizer_state, optimizer_state
from lightwam.train.state import TrainingState

BETAS, EPS = (0.9, 0.95), 1e-8
FINAL_SHARE = 0.01
"""The learning rate at the last step, as a share of the peak."""


@dataclass(frozen=True)
class PublishedSchedule:
    """Linear warm-up from peak / warmup, then half a cosine down to 1 % of the peak, or nothing (`constant`).

    The peak is first used at step `warmup_steps`; `max_steps` includes the warm-up, which is cut to `max_steps` - 1.

    Raises:
        ConfigError: for a rate that is negative or not finite, steps below 1 or a warm-up below 0.
    """

    peak: float
    warmup_steps: int
    max_steps: int
    decay: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.peak) and self.peak >= 0):
            raise ConfigError(f"learning_rate is {self.peak}: give a finite number from 0 on")
        if self.max_steps < 1:
            raise ConfigError(f"max_steps is {self.max_steps}: give at least 1")
        if self.warmup_steps < 0:
            raise ConfigError(f"warmup_steps is {self.warmup_steps}: give 0 or more")

    def rate(self, step: int) -> float:
        """The learning rate of step 0, 1, ...; after the last step it stays at 1 % of the peak."""
        warmup = min(self.warmup_steps, self.max_steps - 1)
        if step < warmup:
            first = 1 / warmup
            return self.peak * (first + (1 - first) * step / warmup)
        if self.decay == "constant":
            return self.peak
        progress = min(1.0, (step - warmup) / (self.max_steps - warmup))
        return self.peak * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * progress)))


class TrainStep:
    """Updates the parameters of a policy that require a gradient; the others are left alone.

    Trained parameters in another type than float32 have float32 masters, which the optimizer updates; the model's own
    are the masters rounded.

    Args:
        model: a `LightWAM`, or a module whose forward takes (batch, noise, timestep) and returns losses by name, `loss`
            among them; on its device and in its dtype.
        learning_rate: peak of the schedule.
        weight_decay: of AdamW, on every trainable parameter.
        warmup_steps, max_steps, decay: see `PublishedSchedule`.
        max_grad_norm: largest L2 norm of the whole gradient; None or infinity never clips.
        betas, eps, fused: of AdamW.
        autocast: the type that matmuls are computed in; None: that of the weights.
        ema_decay: decay of `average`; None: none is kept.
        world: the processes that compute a step together (`lightwam.train.distributed.use_world`); None: this one. The
            first one's weights count.
        sharding: of several processes: "ddp", each with a copy of the model; "fsdp", each with a part of it (FSDP2).
        find_unused: of several processes with "ddp": some trained parameters get no gradient in some updates.

    Attributes:
        step_count: optimizer steps done.
        average: averaged weights, or None.

    Raises:
        ConfigError: for a value out of its range, or a model without trainable parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        max_steps: int,
        max_grad_norm: float | None,
        decay: Literal["cosine", "constant"] = "cosine",
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
        fused: bool = True,
        autocast: torch.dtype | None = None,
        ema_decay: float | None = None,
        world: World | None = None,
        sharding: Sharding = "ddp",
        find_unused: bool = False,
    ) -> None:
        self.schedule = PublishedSchedule(learning_rate, warmup_steps, max_steps, decay)
        if not (math.isfinite(weight_decay) and weight_decay >= 0):
            raise ConfigError(f"weight_decay is {weight_decay}: give a finite number from 0 on")
        self.max_grad_norm = math.inf if max_grad_norm is None else max_grad_norm
        if not self.max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm is {max_grad_norm}: give a number above 0, or None for no clipping")
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError("no parameter of the model requires a gradient: load it without freezing all of it")
        self.model, self.autocast = model, autocast
        self.shared = SharedModel(model, world, sharding, find_unused=find_unused)
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.names, self.parameters = list(trained), list(trained.values())
        self.masters = [p if p.dtype == torch.float32 else p.detach().float() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=self.schedule.rate(0), betas=betas, eps=eps, weight_decay=weight_decay, fused=fused
        )
        self.average = None if ema_decay is None else Average(self.masters, ema_decay)
        self.step_count = 0

    def step(
        self,
        micro_batches: Sequence[Mapping[str, Any]],
        noise: Sequence[Tensor | None] | None = None,
        timestep: Sequence[Tensor | None] | None = None,
        *,
        parts: int | None = None,
    ) -> dict[str, float]:
        """One update from the mean loss of the micro-batches, those of all processes.

        Args:
            micro_batches: batches as `LightWAM.training_losses` takes them; each counts the same. Every process gives
                its own, and the same number of them.
            noise, timestep: those of each micro-batch; drawn from torch's global generator if None.
            parts: what each micro-batch's gradient is divided by; None: their number. The published trainer divides by
                its setting, also where an epoch's end leaves fewer micro-batches.

        Returns:
            `loss`, `loss_video`, `loss_action`: means over all micro-batches, the last two times their lambdas;
            `grad_norm`: L2 norm of the whole gradient before clipping; `lr`: the rate of this step.

        Raises:
            DataError: no micro-batch, another number of noises or timesteps, or a batch that does not fit.
            TrainingError: a loss or gradient is not finite, in whatever process. The weights are as before the step.
            DistributedError: another process ended.
        """
        count = len(micro_batches)
        if not count:
            raise DataError("no micro-batch is given: give at least one")
        for name, given in (("noise", noise), ("timestep", timestep)):
            if given is not None and len(given) != count:
                raise DataError(f"{name} has {len(given)} entries for {count} micro-batches: give one for each")
        with self.shared.world.guarded():
            figures = self._gradient(micro_batches, noise, timestep, parts or count)
        self._check_finite(figures)
        for group in self.optimizer.param_groups:
            group["lr"] = figures["lr"]
        self.optimizer.step()
        self._masters_to_weights()
        self.step_count += 1
        if self.average is not None:
            self.average.update(self.masters, self.step_count)
        return figures

    def computing(self) -> AbstractContextManager[Any]:
        """The context that the model computes in: autocast, or none."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.parameters[0].device.type, self.autocast)

    def averaged(self) -> AbstractContextManager[None]:
        """Inside it the model has the averaged weights, where there are some."""
        return nullcontext() if self.average is None else self.average.in_place_of(self.parameters)

    def state(self) -> TrainingState:
        """What `load` needs: the trained weights (masters), optimizer, average and step, for any number of processes.

        Whole tensors on the first process; the others get none, and must call it too. Gradients are dropped first, to
        make room.
        """
        self._forget_gradients()
        masters = dict(zip(self.names, self.masters, strict=True))
        average = None if self.average is None else dict(zip(self.names, self.average.values, strict=True))
        return TrainingState(
            step=self.step_count,
            weights=self.shared.whole_tensors(masters),
            optimizer=optimizer_state(self.shared, self.optimizer, masters),
            average=None if average is None else self.shared.whole_tensors(average),
        )

    @torch.no_grad()
    def load(self, state: TrainingState) -> None:
        """Inverse of `state`; every process gives the whole. Raises `CheckpointError`: it is of another model."""
        targets = [("trained weights", state.weights, self.masters)]
        if (self.average is None) != (state.average is None):
            raise CheckpointError("the saved training state and this run differ in averaged weights: only one has them")
        if self.average is not None and state.average is not None:
            targets.append(("averaged weights", state.average, self.average.values))
        for what, values, tensors in targets:
            shapes = {name: tuple(tensor.shape) for name, tensor in zip(self.names, tensors, strict=True)}
            refuse(f"the saved training state ({what})", find_faults(shapes, values))
        for _, values, tensors in targets:
            for name, tensor in zip(self.names, tensors, strict=True):
                tensor.copy_(like(tensor, values[name]))
        self._masters_to_weights()
        load_optimizer_state(self.optimizer, dict(zip(self.names, self.masters, strict=True)), state.optimizer)
        self.step_count = state.step

    def trained_weights(self) -> dict[str, Tensor]:
        """The averaged weights, or where there are none the trained ones, by name. Where as for `state`."""
        values = self.masters if self.average is None else self.average.values
        return self.shared.whole_tensors(dict(zip(self.names, values, strict=True)))

    def full_weights(self) -> dict[str, Tensor]:
        """All weights of the model, frozen ones included, whole in the CPU's memory. Where as for `state`."""
        return self.shared.whole_tensors(self.model.state_dict())

    def _gradient(
        self,
        micro_batches: Sequence[Mapping[str, Any]],
        noise: Sequence[Tensor | None] | None,
        timestep: Sequence[Tensor | None] | None,
        parts: int,
    ) -> dict[str, float]:
        """Compute and clip the gradient; the step's figures."""
        self._forget_gradients()
        count, sums = len(micro_batches), dict[str, Tensor]()
        # Several processes add up gradients once, at the last micro-batch, unless masters take them before.
        own = all(a is b for a, b in zip(self.parameters, self.masters, strict=True))
        for i, batch in enumerate(micro_batches):
            with self.shared.micro_batch(last=i == count - 1 or not own):
                with self.computing():
                    losses = self.shared.losses(batch, noise[i] if noise else None, timestep[i] if timestep else None)
                (losses["loss"] / parts).backward()  # type: ignore[no-untyped-call]
            self._gradients_to_masters()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach().float()
        figures = self.shared.world.mean({name: float(value) / count for name, value in sums.items()})
        norm = self.shared.clip(self.masters, self.max_grad_norm)
        return {**figures, "grad_norm": norm, "lr": self.schedule.rate(self.step_count)}

    def _forget_gradients(self) -> None:
        for tensor in (*self.parameters, *self.masters):
            tensor.grad = None

    def _gradients_to_masters(self) -> None:
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter is not master and parameter.grad is not None:
                gradient = parameter.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                parameter.grad = None

    @torch.no_grad()
    def _masters_to_weights(self) -> None:
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter is not master:
                parameter.copy_(master)

    def _check_finite(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            if not math.isfinite(value):
                self._forget_gradients()
                raise TrainingError(
                    f"step {self.step_count}: {name} is {value}: look for values that are not finite or far out of "
                    "range in this batch, or lower the learning rate; no weight was changed"
                )
