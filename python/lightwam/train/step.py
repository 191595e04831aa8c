# SPDX-License-Identifier: Apache-2.0
"""One optimizer step of Light-WAM, as the published trainer computes it.

One AdamW group decays everything that trains (biases, norms, modulation and queries included); the learning rate
follows `PublishedSchedule`; every micro-batch counts as one part of the mean. Source: the training code of Light-WAM
(arXiv 2606.08242); docs/reference/light-wam.md has the losses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightwam.errors import ConfigError, DataError, TrainingError
from lightwam.model import LightWAM
from lightwam.model.fit import find_faults, refuse
from lightwam.train.distributed import World
from lightwam.train.sharding import Sharding, SharedModel, copy_into, load_optimizer_state, optimizer_state
from lightwam.train.state import OptimizerState

BETAS, EPS = (0.9, 0.95), 1e-8
FINAL_SHARE = 0.01
"""The learning rate at the last step, as a share of the peak."""


@dataclass(frozen=True)
class PublishedSchedule:
    """Linear warm-up from peak / warmup, then half a cosine down to 1 % of the peak.

    The peak is first used at step `warmup_steps`; `max_steps` includes the warm-up, which is cut to `max_steps` - 1.

    Raises:
        ConfigError: for a rate that is negative or not finite, steps below 1 or a warm-up below 0.
    """

    peak: float
    warmup_steps: int
    max_steps: int

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
        progress = min(1.0, (step - warmup) / (self.max_steps - warmup))
        return self.peak * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * progress)))


class TrainStep:
    """Updates the parameters of a policy that require a gradient; the others are left alone.

    Args:
        model: the policy, on its device and in its dtype, or another module with such `training_losses`.
        learning_rate: peak of the schedule.
        weight_decay: of AdamW, on every trainable parameter.
        warmup_steps, max_steps: see `PublishedSchedule`.
        max_grad_norm: largest L2 norm of the whole gradient; None or infinity never clips.
        world: the processes that compute a step together (`lightwam.train.distributed.use_world`); None: this one.
        sharding: of several processes: "ddp", each with a copy of the model; "fsdp", each with a part of it (FSDP2).

    Attributes:
        step_count: optimizer steps done.

    Raises:
        ConfigError: for a value out of its range, or a model without trainable parameters.
    """

    def __init__(
        self,
        model: LightWAM | nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        max_steps: int,
        max_grad_norm: float | None,
        world: World | None = None,
        sharding: Sharding = "ddp",
    ) -> None:
        self.schedule = PublishedSchedule(learning_rate, warmup_steps, max_steps)
        if not (math.isfinite(weight_decay) and weight_decay >= 0):
            raise ConfigError(f"weight_decay is {weight_decay}: give a finite number from 0 on")
        self.max_grad_norm = math.inf if max_grad_norm is None else max_grad_norm
        if not self.max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm is {max_grad_norm}: give a number above 0, or None for no clipping")
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError("no parameter of the model requires a gradient: load it without freezing all of it")
        self.model, self.shared = model, SharedModel(model, world, sharding)
        self.names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.parameters = list(self.names.values())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.schedule.rate(0), betas=BETAS, eps=EPS, weight_decay=weight_decay
        )
        self.step_count = 0

    def step(
        self,
        micro_batches: Sequence[Mapping[str, Tensor]],
        noise: Sequence[Tensor] | None = None,
        timestep: Sequence[Tensor] | None = None,
    ) -> dict[str, float]:
        """One update from the mean loss of the micro-batches, those of all processes.

        Args:
            micro_batches: batches as `LightWAM.training_losses` takes them; each counts the same. Every process gives
                its own, and the same number of them.
            noise, timestep: those of each micro-batch; drawn from torch's global generator if None.

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
            figures = self._gradient(micro_batches, noise, timestep)
        self._check_finite(figures)
        for group in self.optimizer.param_groups:
            group["lr"] = figures["lr"]
        self.optimizer.step()
        self.step_count += 1
        return figures

    def _gradient(
        self,
        micro_batches: Sequence[Mapping[str, Tensor]],
        noise: Sequence[Tensor] | None,
        timestep: Sequence[Tensor] | None,
    ) -> dict[str, float]:
        """Compute and clip the gradient; the step's figures."""
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        count = len(micro_batches)
        for i, batch in enumerate(micro_batches):
            with self.shared.micro_batch(last=i == count - 1):
                losses = self.shared.losses(batch, noise[i] if noise else None, timestep[i] if timestep else None)
                (losses["loss"] / count).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach().float()
        figures = self.shared.world.mean({name: float(value) / count for name, value in sums.items()})
        norm = self.shared.clip(self.parameters, self.max_grad_norm)
        return {**figures, "grad_norm": norm, "lr": self.schedule.rate(self.step_count)}

    def state(self) -> tuple[dict[str, Tensor], OptimizerState]:
        """The trained parameters and the optimizer's tensors, by the parameters' names: whole, in the CPU's memory.

        On the first process; the others get nothing, and must call it too.
        """
        return self.shared.whole_tensors(self.names), optimizer_state(self.shared, self.optimizer, self.names)

    def load(self, step: int, weights: Mapping[str, Tensor], optimizer: OptimizerState) -> None:
        """Go on from a `state` after `step` updates, of whatever number of processes; every process gives the whole.

        Raises:
            CheckpointError: a name or shape does not fit.
        """
        faults = find_faults({name: tuple(parameter.shape) for name, parameter in self.names.items()}, weights)
        refuse("the saved training state", faults)
        for name, parameter in self.names.items():
            copy_into(parameter, weights[name])
        load_optimizer_state(self.optimizer, self.names, optimizer)
        self.step_count = step

    def full_weights(self) -> dict[str, Tensor]:
        """All weights of the model, frozen ones included, whole in the CPU's memory. Where as for `state`."""
        return self.shared.whole_tensors(self.model.state_dict())

    def _check_finite(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            if not math.isfinite(value):
                self.optimizer.zero_grad(set_to_none=True)
                raise TrainingError(
                    f"step {self.step_count}: {name} is {value}: look for values that are not finite or far out of "
                    "range in this batch, or lower the learning rate; no weight was changed"
                )
