# SPDX-License-Identifier: Apache-2.0
"""Flow matching along straight lines, with shifted noise levels.

x_t = (1 - sigma) x + sigma n, target = n - x, t = num_train_timesteps * sigma, sigma = s u / (1 + (s - 1) u).
Source: Light-WAM (arXiv 2606.08242), training objective; the schedule is Wan2.1's.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

from lightwam.config import FlowMatchingConfig

Level = TypeVar("Level", float, Tensor)


class FlowMatching:
    """Noise levels, training weights and the Euler schedule of one configuration."""

    def __init__(self, config: FlowMatchingConfig):
        self.config = config
        # Plain Python numbers, so that a model can be built on any device, the meta device included.
        steps = config.num_train_timesteps
        bumps = [math.exp(-2.0 * (self.shift(k / steps) - 0.5) ** 2) for k in range(1, steps + 1)]
        self.weight_floor = min(bumps)
        self.weight_mean = math.fsum(bump - self.weight_floor for bump in bumps) / steps

    def shift(self, u: Level) -> Level:
        """sigma of the uniform level u in [0, 1]."""
        s = self.config.shift
        return s * u / (1 + (s - 1) * u)

    def sample_timesteps(self, count: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """`count` times in [0, num_train_timesteps), float32."""
        u = torch.rand(count, device=device, generator=generator)
        return self.shift(u) * self.config.num_train_timesteps

    def add_noise(self, x: Tensor, noise: Tensor, timestep_B: Tensor) -> Tensor:
        """x_t for each sample's time; x and noise are [B, ...]."""
        sigma = (timestep_B / self.config.num_train_timesteps).to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
        return (1 - sigma) * x + sigma * noise

    @staticmethod
    def target(x: Tensor, noise: Tensor) -> Tensor:
        """The flow that the model learns: noise - x."""
        return noise - x

    def training_weight(self, timestep: Tensor) -> Tensor:
        """w(t): a bump around the middle of the schedule, 0 at both ends, about 1 on average over the schedule."""
        steps = self.config.num_train_timesteps
        bump = torch.exp(-2.0 * ((timestep - steps / 2) / steps) ** 2)
        return (bump - self.weight_floor) / (self.weight_mean + 1e-10)

    def sampling_schedule(self, num_steps: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Times [n] and sigma steps [n] (negative) of Euler sampling from noise to data, float32."""
        sigmas = self.shift(torch.linspace(1.0, 0.0, num_steps + 1, device=device))
        return sigmas[:-1] * self.config.num_train_timesteps, sigmas.diff()

    @staticmethod
    def step(x: Tensor, flow: Tensor, delta: Tensor | float) -> Tensor:
        """One Euler step."""
        return x + flow * delta
