# SPDX-License-Identifier: Apache-2.0
"""The memory that a training takes on each GPU, before there is one.

Networks are built without data (meta device) and one micro-batch runs through them there; what autograd would keep for
the backward pass is added up, each storage once. Attention counts as a fused kernel: inputs, output, one row of sums.
docs/guides/many-gpus.md says how far the sum is from what was measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightwam.config import LightWAMConfig
from lightwam.errors import ConfigError
from lightwam.model import LightWAM
from lightwam.model.dit import DiTBlock
from lightwam.model.fit import on_meta
from lightwam.train.networks import FUTURE, PolicyNetworks
from lightwam.train.recipe import Recipe
from lightwam.train.sharding import Sharding

CONTEXT_BYTES = 700 << 20
"""Of the CUDA context and libraries in each process."""
FRAGMENTATION = 0.06
"""What an allocator loses, as a share of the rest."""
CONTEXT_ROWS = 48
"""Text rows of a sample after equal ones are merged: long instructions have about so many words."""


@dataclass(frozen=True)
class Activations:
    """What autograd keeps of one micro-batch, in bytes: `kept` without checkpointing, `checkpointed` with it."""

    kept: int
    checkpointed: int


@dataclass(frozen=True)
class GPUMemory:
    """The memory of one GPU at its fullest, in bytes."""

    weights: int
    masters: int
    """Float32 copies of trained weights that are stored in bfloat16."""
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    average: int
    gathered: int
    """FSDP2: whole weights of two blocks and of what is outside of blocks."""
    activations: int
    other: int
    """CUDA itself, and what the allocator loses."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


class _Fused(torch.autograd.Function):
    """Keeps what a fused attention kernel keeps; computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype, device=query.device)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, output, sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None, None]:
        raise NotImplementedError("only what is kept is counted")


class _FusedAttention(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            return _Fused.apply(*args[:3])  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def measure_activations(networks: nn.Module, run: Callable[[], object]) -> Activations:
    """What autograd keeps of `run`, without checkpointing, and with the blocks of `networks` checkpointed."""
    seen: dict[int, Tensor] = {}  # holds the storages, so that their places are not used again
    own = {parameter.untyped_storage()._cdata for parameter in networks.parameters()}
    totals = {"outside": 0}
    block, blocks, inputs = ["outside"], list[str](), 0

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in seen and place not in own:
            seen[place] = tensor
            totals[block[-1]] += tensor.untyped_storage().nbytes()
        return tensor

    def enter(module: nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal inputs
        block.append(str(len(blocks)))
        blocks.append(block[-1])
        totals[block[-1]] = 0
        inputs += given[0].nbytes

    def leave(module: nn.Module, given: Any, output: Any) -> None:
        block.pop()

    hooks = []
    for module in networks.modules():
        if isinstance(module, DiTBlock):
            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _FusedAttention():
        result = run()
    for hook in hooks:
        hook.remove()
    del result
    largest = max((totals[name] for name in blocks), default=0)
    return Activations(sum(totals.values()), totals["outside"] + inputs + largest)


def meta_batch(config: LightWAMConfig, batch: int, dtype: torch.dtype) -> dict[str, Any]:
    """A micro-batch without data."""

    def empty(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.empty(*shape, dtype=kind, device="meta")

    frames = 1 + (config.video.num_frames - 1) // config.vae.temporal_factor
    rows = min(CONTEXT_ROWS, config.text.length)
    return {
        "video_latents": empty(batch, config.vae.z_dim, frames, *config.latent_size),
        "action": empty(batch, config.horizon, config.action_dim),
        "proprio": empty(batch, config.state_dim),
        "context": empty(batch, rows, config.text.width),
        "context_mask": empty(batch, rows, kind=torch.int64),
    }


def _mean(found: list[Activations]) -> Activations:
    return Activations(
        sum(each.kept for each in found) // len(found), sum(each.checkpointed for each in found) // len(found)
    )


class MemoryPlan:
    """The memory of a recipe's training.

    Args:
        recipe: the policy, precision, average and batch of the video pass count.
        gpus: all GPUs of the run. Raises `ConfigError`: below 1.
    """

    def __init__(self, recipe: Recipe, gpus: int) -> None:
        if gpus < 1:
            raise ConfigError(f"--gpus is {gpus}: use at least 1")
        self.recipe, self.gpus = recipe, gpus
        self.networks = on_meta(lambda: PolicyNetworks(LightWAM(recipe.policy), None)).train()
        self.networks.policy.set_attention("sdpa")
        self.precision = recipe.computing.precision
        parameters = list(self.networks.parameters())
        self.trained = sum(p.numel() for p in parameters if p.requires_grad)
        self.frozen = sum(p.numel() for p in parameters) - self.trained
        # What is kept grows evenly with the samples.
        dtypes = {"bfloat16": [torch.bfloat16], "float32": [torch.float32]}
        measured = [self._activations(dtype) for dtype in dtypes.get(self.precision, [torch.bfloat16, torch.float32])]
        self._base, self._a_sample = (_mean([pair[i] for pair in measured]) for i in (0, 1))

    def _activations(self, dtype: torch.dtype) -> tuple[Activations, Activations]:
        """(of no sample, of each sample), in this type of everything."""
        self.networks.to(dtype)
        few = self.recipe.schedule.batch if self.recipe.losses.video_batch else 1
        one, two = self._measure(few, dtype), self._measure(2 * few, dtype)
        each = Activations((two.kept - one.kept) // few, (two.checkpointed - one.checkpointed) // few)
        return Activations(one.kept - few * each.kept, one.checkpointed - few * each.checkpointed), each

    def _measure(self, batch: int, dtype: torch.dtype) -> Activations:
        sample = meta_batch(self.recipe.policy, batch, dtype)
        share = self.recipe.losses.video_batch
        if share is not None:  # a few samples of their own get the video pass
            futures = -(-batch * share // self.recipe.schedule.batch) if share else 0
            sample[FUTURE] = meta_batch(self.recipe.policy, futures, dtype)
        latents = self.networks.policy.downsample(sample.get(FUTURE, sample)["video_latents"])
        noise, timestep = torch.empty_like(latents), torch.empty(len(latents), device="meta")
        return measure_activations(self.networks, lambda: self.networks(sample, noise, timestep))

    def activations(self, batch: int) -> Activations:
        """Of a micro-batch. Autocast keeps bfloat16 for matmuls and float32 elsewhere, and its casts of weights."""
        casts = 2 * self.trained if self.precision == "autocast" else 0
        kept, checkpointed = (
            base + batch * each + casts
            for base, each in zip(vars(self._base).values(), vars(self._a_sample).values(), strict=True)
        )
        return Activations(kept, checkpointed)

    def predict(self, sharding: Sharding, batch: int, checkpointing: bool) -> GPUMemory:
        """The memory of each GPU with this many samples a micro-batch. Raises `ConfigError`: below 1."""
        if batch < 1:
            raise ConfigError(f"--batch is {batch}: use at least 1")
        sizes = {True: 2 if self.precision == "bfloat16" else 4, False: 4 if self.precision == "float32" else 2}
        weights = self.trained * sizes[True] + self.frozen * sizes[False]
        parts, gathered = self.gpus if sharding == "fsdp" else 1, 0
        if parts > 1:
            blocks = [
                sum(p.numel() * sizes[p.requires_grad] for p in module.parameters())
                for module in self.networks.modules()
                if isinstance(module, DiTBlock)
            ]
            gathered = weights - sum(blocks) + 2 * max(blocks)
        kept = self.activations(batch)
        memory = GPUMemory(
            weights=weights // parts,
            masters=4 * self.trained // parts if self.precision == "bfloat16" else 0,
            gradients=4 * self.trained // parts,
            optimizer=8 * self.trained // parts,
            average=4 * self.trained // parts if self.recipe.optimizer.ema_decay is not None else 0,
            gathered=gathered,
            activations=kept.checkpointed if checkpointing else kept.kept,
            other=0,
        )
        return replace(memory, other=CONTEXT_BYTES + int(FRAGMENTATION * memory.total))

    def propose(self, room: int, largest: int = 1024) -> list[Proposal]:
        """For each sharding, with and without checkpointing, the largest batch (a power of two) of `room` bytes."""
        shardings: tuple[Sharding, ...] = ("ddp", "fsdp") if self.gpus > 1 else ("ddp",)
        found = []
        for sharding, checkpointing in itertools.product(shardings, (False, True)):
            best = None
            for power in range(int(math.log2(largest)) + 1):
                memory = self.predict(sharding, 1 << power, checkpointing)
                if memory.total <= room:
                    best = Proposal(sharding, checkpointing, 1 << power, memory)
            found += [] if best is None else [best]
        return found


@dataclass(frozen=True)
class Proposal:
    """A way to train that fits."""

    sharding: Sharding
    checkpointing: bool
    batch: int
    memory: GPUMemory
