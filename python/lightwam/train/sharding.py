# SPDX-License-Identifier: Apache-2.0
"""How the processes of a run share one model: each a copy (DDP), or each a part of every weight (FSDP2).

The gradient is the mean over processes, so that each process's loss counts the same, as published. Names of parameters
are those of the model itself everywhere; what is saved is whole tensors, which any number of processes can load.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightwam.errors import CheckpointError, ConfigError
from lightwam.model.dit import DiTBlock
from lightwam.train.distributed import World

Sharding = Literal["ddp", "fsdp"]
Result = TypeVar("Result")


class _Losses(nn.Module):
    """`training_losses` as the forward pass, where DDP and FSDP2 hook in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, batch: Mapping[str, Any], noise: Tensor | None, timestep: Tensor | None,
        work: Callable[[], Any] | None = None,
    ) -> Any:  # fmt: skip
        if work is not None:  # inside, FSDP2 has gathered what is outside of blocks
            return work()
        compute = getattr(self.model, "training_losses", self.model)
        losses: dict[str, Tensor] = compute(batch, noise, timestep)
        return losses


class SharedModel:
    """A model with `training_losses`, or a module whose forward returns them, on one process or several.

    Args:
        model: on its device, with the same parameters everywhere; the first process's values count. FSDP2 turns its
            parameters into parts, so the optimizer comes after.
        world: the processes.
        sharding: "ddp" or "fsdp"; of one process without meaning.
        compute_dtype: what FSDP2 gathers the weights in; None: as they are. Gradients are reduced in float32.
        blocks: the modules that FSDP2 gathers one at a time; None: the blocks of the video DiT.
        find_unused: with "ddp", look in each update for trained parameters that get no gradient, which are an error
            otherwise.

    Raises:
        ConfigError: another sharding.
    """

    def __init__(
        self,
        model: nn.Module,
        world: World | None = None,
        sharding: Sharding = "ddp",
        compute_dtype: torch.dtype | None = None,
        blocks: Iterable[nn.Module] | None = None,
        find_unused: bool = False,
    ) -> None:
        if sharding not in get_args(Sharding):
            raise ConfigError(f"sharding is {sharding!r}: use 'ddp' or 'fsdp'")
        self.model, self.world = model, world or World()
        self._call: nn.Module = _Losses(model)
        self._ddp: Any = None
        self._fsdp: Any = None
        if self.world.size == 1:
            return
        with self.world.guarded():
            if sharding == "ddp":
                self._call = self._ddp = nn.parallel.DistributedDataParallel(
                    self._call, gradient_as_bucket_view=True, find_unused_parameters=find_unused
                )
            else:
                for tensor in (*model.parameters(), *model.buffers()):
                    dist.broadcast(tensor.data, 0)
                self._call = self._fsdp = self._shard(compute_dtype, blocks)

    def _shard(self, compute_dtype: torch.dtype | None, blocks: Iterable[nn.Module] | None) -> Any:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # here: it takes a second

        mesh = init_device_mesh(self.world.device.type, (self.world.size,))
        policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
        inner = blocks if blocks is not None else (m for m in self.model.modules() if isinstance(m, DiTBlock))
        sharded = [fully_shard(block, mesh=mesh, mp_policy=policy) for block in list(inner)]
        whole_model = fully_shard(self._call, mesh=mesh, mp_policy=policy)
        for block in sharded:  # one that never runs (without a video pass, the last ones) fails in accumulation else
            block.unshard()
            block.reshard()
        return whole_model

    def losses(
        self, batch: Mapping[str, Any], noise: Tensor | None = None, timestep: Tensor | None = None
    ) -> dict[str, Tensor]:
        """This process's losses of a batch."""
        try:
            losses: dict[str, Tensor] = self._call(batch, noise, timestep)
        except RuntimeError as error:
            if "Expected to have finished reduction" not in str(error):
                raise
            raise ConfigError(
                "some trained parameters get no gradient in an update: freeze them, or give find_unused=True"
            ) from error
        return losses

    @property
    def in_parts(self) -> bool:
        """Whether each process has a part of every weight, so that all of them must compute together."""
        return self._fsdp is not None

    @torch.no_grad()
    def evaluate(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, which may call the model without gradients. Where `in_parts`, all processes do."""
        if self._fsdp is None:
            return work()
        with self.world.guarded():
            result: Result = self._call(None, None, None, work)
            self._fsdp.reshard()
            return result

    @contextlib.contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Around forward and backward of one micro-batch; the gradients meet in the `last` one alone."""
        if self._fsdp is not None:
            self._fsdp.set_requires_gradient_sync(last)
        with self._ddp.no_sync() if self._ddp is not None and not last else contextlib.nullcontext():
            yield

    def clip(self, parameters: Iterable[Tensor], largest: float) -> float:
        """Scale the gradient of all processes' parts to at most this L2 norm; returns the norm before."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, largest)
        return float(whole(norm))

    def whole_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of whole tensors in the CPU's memory, on the first process; the others help and get nothing."""
        found = {}
        with self.world.guarded():
            for name, tensor in tensors.items():
                full = whole(tensor.detach())
                if self.world.is_first:
                    found[name] = full.to("cpu", copy=True)
        return found


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all of it where this process has a part; then all processes must call this."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def like(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor on the parameter's device, or this process's part of it; every process has the whole one."""
    placed = value.to(parameter.device, copy=True)
    if not hasattr(parameter, "full_tensor"):
        return placed
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    return distribute_tensor(placed, parameter.device_mesh, parameter.placements, src_data_rank=None)


def optimizer_state(
    shared: SharedModel, optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Name -> the optimizer's whole tensors, on the first process; empty on the others."""
    found = {name: shared.whole_tensors(optimizer.state.get(parameter, {})) for name, parameter in names.items()}
    return {name: state for name, state in found.items() if state} if shared.world.is_first else {}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor], state: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Inverse of `optimizer_state`, on every process. Raises `CheckpointError`: a tensor of another shape."""
    for name, parameter in names.items():
        loaded: dict[str, Any] = {}
        for key, value in state.get(name, {}).items():
            if key == "step":
                loaded[key] = value.clone()
            elif value.shape != parameter.shape:
                raise CheckpointError(
                    f"optimizer state {key} of {name} has shape {tuple(value.shape)} instead of "
                    f"{tuple(parameter.shape)}: it is of another model"
                )
            else:
                loaded[key] = like(parameter, value)
        if loaded:
            optimizer.state[parameter] = loaded


def frozen_as(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Frozen parameters in this type, trained ones in float32 (the optimizer's masters); the model itself."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)
    return model
