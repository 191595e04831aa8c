# SPDX-License-Identifier: Apache-2.0
"""The processes of one training run: started by torchrun, or one alone.

A rank is a process's number. What goes wrong between processes is one line, and no process waits for ever for another.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from lightwam.errors import ConfigError, DistributedError, LightWAMError
from lightwam.train.device import use_device

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OF_THE_NETWORK = (
    "gloo", "NCCL", "ncclInternalError", "Connection reset", "Connection closed", "Connection refused", "Broken pipe",
    "Timed out", "timed out", "timeout", "EADDRINUSE", "socket", "process group",
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """All processes of a run, as one of them sees them. A run of one process makes no connection."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Number of the process on its machine: which GPU it uses."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (it is immutable)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def agree(self, number: int) -> int:
        """The largest of the processes' numbers: all of them stop when one has received a signal."""
        if self.size == 1:
            return number
        with self.guarded():
            value = torch.tensor([number], device=self.device)
            dist.all_reduce(value, dist.ReduceOp.MAX)
            return int(value)

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Each figure's mean over the processes, which all give the same names."""
        if self.size == 1:
            return dict(figures)
        with self.guarded():
            values = torch.tensor(list(figures.values()), dtype=torch.float64, device=self.device)
            dist.all_reduce(values)
            return dict(zip(figures, (values / self.size).tolist(), strict=True))

    def gather(self, item: Result) -> list[Result]:
        """What every process gives, in the order of ranks; on the first process alone, elsewhere an empty list."""
        if self.size == 1:
            return [item]
        with self.guarded():
            items: list[Any] | None = [None] * self.size if self.is_first else None
            dist.gather_object(item, items)
            return items or []

    def on_first(self, work: Callable[[], Result]) -> Result:
        """What `work` returns in the first process, to all. Where it fails, the first raises and the others leave.

        The result travels by pickle. SystemExit(2) in the others: the first one's line says what is wrong.
        """
        if self.size == 1:
            return work()
        answer: list[Any] = [None, False]
        failure: BaseException | None = None
        if self.is_first:
            try:
                answer = [work(), True]
            except BaseException as error:
                failure = error
        with self.guarded():
            dist.broadcast_object_list(answer)
        if failure is not None:
            raise failure
        if not answer[1]:
            raise SystemExit(2)
        return answer[0]  # type: ignore[no-any-return]

    def barrier(self) -> None:
        """Wait for all processes."""
        self.agree(0)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Raises `DistributedError` for what goes wrong between the processes in the block."""
        try:
            yield
        except LightWAMError:
            raise
        except RuntimeError as error:  # torch's own errors of processes are among them
            reason = str(error).strip().split("\n")[0].split(" This is typically caused")[0]  # gloo's advice
            if self.size == 1 or not any(word in reason for word in _OF_THE_NETWORK):
                raise
            raise DistributedError(
                f"rank {self.rank} of {self.size} lost the others ({reason[-160:]}): one of them ended, its line says "
                "why; repeat the command to go on from the newest save"
            ) from error


@contextlib.contextmanager
def use_world(device: str = "cpu", timeout_s: float = 600.0) -> Iterator[World]:
    """The processes that torchrun started, connected; or this one alone where its variables are not set.

    Args:
        device: "cpu" (gloo) or "cuda" (NCCL, one GPU a process); "cuda:N" for one process alone.
        timeout_s: how long a process waits for the others, at the start and in every step.

    Raises:
        ConfigError: half of torchrun's variables, or a device of one process for several.
        DeviceError: the device is not there.
        DistributedError: the port is taken, or a process does not come.
    """
    found = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if "RANK" not in found and "WORLD_SIZE" not in found:
        yield World(device=use_device(device))
        return
    world = _read_variables(found)
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device} under torchrun: give cpu or cuda, each process takes a GPU of its own")
    if not world.is_first:
        logging.getLogger("lightwam").setLevel(logging.WARNING)
    place = use_device(device if device == "cpu" else f"cuda:{world.local_rank}")
    if place.type == "cuda":
        torch.cuda.set_device(place)
    world = replace(world, device=place)
    address = f"{found['MASTER_ADDR']}:{found['MASTER_PORT']}"
    try:
        dist.init_process_group(
            "gloo" if place.type == "cpu" else "nccl", rank=world.rank, world_size=world.size,
            timeout=timedelta(seconds=timeout_s),
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise DistributedError(_no_start(error, address, world, timeout_s)) from error
    log.info("%d processes, %s", world.size, "gloo" if place.type == "cpu" else "NCCL")
    yield world
    dist.destroy_process_group()  # after an error the others may never answer: the end of this process tells them


def _read_variables(found: Mapping[str, str]) -> World:
    missing = [name for name in _VARIABLES if name not in found]
    if missing:
        raise ConfigError(f"{', '.join(missing)} not set beside {', '.join(found)}: start processes with torchrun")
    try:
        rank, size, local = (int(found[name]) for name in _VARIABLES[:3])
        int(found["MASTER_PORT"])
    except ValueError as error:
        raise ConfigError(f"torchrun's variables hold no number ({error}): start processes with torchrun") from error
    if not 0 <= rank < size or local < 0:
        raise ConfigError(f"RANK is {rank} of WORLD_SIZE {size}: start processes with torchrun")
    return World(rank, size, local)


def _no_start(error: Exception, address: str, world: World, timeout_s: float) -> str:
    reason = str(error).strip().split("\n")[0]
    if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
        return f"{address} is taken, by another or an earlier run: give torchrun another port (MASTER_PORT)"
    return (
        f"rank {world.rank} of {world.size} did not find the others at {address} within {timeout_s:g} s "
        f"({reason[:120]}): start all processes, and check address and port"
    )
