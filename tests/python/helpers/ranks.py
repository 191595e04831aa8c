# SPDX-License-Identifier: Apache-2.0
"""Small trainings on several processes, as torchrun would start them: `run_ranks` in a test, `main` in each process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.model_tiny import build, example_batch, tiny
from lightwam.errors import LightWAMError, TrainingError
from lightwam.model import LightWAM
from lightwam.train import TrainStep
from lightwam.train.distributed import World, use_world
from lightwam.train.networks import FUTURE, PolicyNetworks

OPTIONS: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 0.01, "warmup_steps": 2, "max_steps": 50,
                           "max_grad_norm": 1.0, "ema_decay": 0.9}  # fmt: skip


def micro_batch(model: LightWAM, number: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Batch, noise and timestep of this number in the order of all batches; some have padding."""
    generator = torch.Generator().manual_seed(number)
    batch = {name: value.clone() for name, value in example_batch(model).items()}
    for name in ("video_latents", "action", "proprio", "context"):
        batch[name] = torch.randn(batch[name].shape, generator=generator)
    batch["action_is_pad"][0, 3 + number % 9 :] = True
    noise = torch.randn(model.downsample(batch["video_latents"]).shape, generator=generator)
    return batch, noise, 1000 * torch.rand(2, generator=generator)


def train(
    world: World, sharding: Any, steps: int, accumulation: int, model: LightWAM | None = None
) -> tuple[TrainStep, list[dict[str, float]]]:
    """The step after so many updates, each over `accumulation` batches a process; the figures of each."""
    model = model or build(tiny())
    step = TrainStep(model, world=world, sharding=sharding, **OPTIONS)
    figures = [advance(step, world, accumulation) for _ in range(steps)]
    return step, figures


def batch_numbers(step: int, accumulation: int, world: World) -> list[int]:
    """Numbers of the batches that a rank computes in an update: they are dealt in turn."""
    return [turn * world.size + world.rank for turn in range(step * accumulation, (step + 1) * accumulation)]


def advance(step: TrainStep, world: World, accumulation: int) -> dict[str, float]:
    """One update."""
    numbers = batch_numbers(step.step_count, accumulation, world)
    batches = [micro_batch(step.model, number) for number in numbers]  # type: ignore[arg-type]
    return step.step(*zip(*batches, strict=True))  # type: ignore[arg-type]


def compare_shardings(world: World, out: Path, steps: int) -> None:
    """DDP and FSDP2 from the same start."""
    results: dict[str, Any] = {}
    for sharding in ("ddp", "fsdp"):
        step, figures = train(world, sharding, steps, 2)
        results[sharding] = {"figures": figures, "weights": step.full_weights(), "state": step.state()}
    if world.is_first:
        torch.save(results, out / "results.pt")
    world.barrier()


def without_futures(world: World, out: Path, accumulation: int) -> None:
    """Updates of actions alone: what only the video pass uses is trained and gets no gradient. Then an evaluation."""
    results: dict[str, Any] = {}
    for sharding in ("ddp", "fsdp") if world.size > 1 else ("ddp",):
        networks = PolicyNetworks(build(tiny()), None)
        step = TrainStep(networks, world=world, sharding=sharding, find_unused=True, **OPTIONS)  # type: ignore[arg-type]
        figures = []
        for _ in range(3):
            batches = []
            for number in batch_numbers(step.step_count, accumulation, world):
                batch = micro_batch(networks.policy, number)[0]
                batches.append({**batch, FUTURE: {**batch, "action": batch["action"][:0]}})
            figures.append(step.step(batches))
        batch = micro_batch(networks.policy, 99)[0]
        with step.averaged():
            loss = step.shared.evaluate(lambda: float(networks.policy.action_loss(batch)[0]))  # noqa: B023
        results[sharding] = {"figures": figures, "loss": loss, "weights": step.full_weights()}
    if world.is_first:
        torch.save(results, out / f"actions{world.size}.pt")
    world.barrier()


def cross_states(world: World, out: Path, steps: int) -> None:
    """Each sharding goes on from the state that one process saved."""
    start = torch.load(out / "start.pt", weights_only=False)
    results: dict[str, Any] = {}
    for sharding in ("ddp", "fsdp"):
        step, _ = train(world, sharding, 0, 2)
        step.load(start)
        figures = [advance(step, world, 2) for _ in range(steps)]
        results[sharding] = {"figures": figures, "state": step.state()}
    if world.is_first:
        torch.save(results, out / "crossed.pt")
    world.barrier()


def all_that_ends_well(world: World, out: Path, steps: int) -> None:
    """`compare_shardings`, `without_futures`, `cross_states` and `meet_not_finite`."""
    compare_shardings(world, out, steps)
    without_futures(world, out, 2)
    cross_states(world, out, 2)
    meet_not_finite(world, out)


def meet_not_finite(world: World, out: Path) -> None:
    """The last rank alone has a batch that is not finite; every rank writes what it was told and its steps."""
    step, _ = train(world, "fsdp", 1, 1)
    batch, noise, timestep = micro_batch(step.model, 7)  # type: ignore[arg-type]
    if world.rank == world.size - 1:
        batch["action"][:] = torch.nan
    try:
        step.step([batch], [noise], [timestep])
    except TrainingError as error:
        (out / f"told{world.rank}.txt").write_text(f"{step.step_count} {error}")
    assert world.agree(world.rank) == world.size - 1
    gathered = world.gather(world.rank)
    assert gathered == (list(range(world.size)) if world.is_first else [])
    assert world.on_first(lambda: 5) == 5


def all_that_ends_badly(world: World, out: Path, steps: int) -> None:
    """The first process refuses something; then the last rank ends in the middle of a run."""

    def refuse() -> None:
        raise LightWAMError("refused on purpose")

    try:
        world.on_first(refuse)
    except (LightWAMError, SystemExit) as error:
        (out / f"refused{world.rank}.txt").write_text(f"{type(error).__name__}: {error}")
    step, _ = train(world, "ddp", 1, 1)
    if world.rank == world.size - 1:
        os._exit(9)
    for _ in range(steps):
        advance(step, world, 1)


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it wrote on standard error."""

    status: int
    text: str

    @property
    def line(self) -> str:
        """The last line."""
        return self.text.strip().split("\n")[-1]


def free_port() -> int:
    """A port that nothing uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_ranks(work: str, out: Path, size: int = 2, steps: int = 3, timeout_s: float = 60) -> list[Ended]:
    """Run a function of this module in `size` processes; how each ended."""
    started, port = [], free_port()
    path = os.pathsep.join(str(p) for p in (Path(__file__).parents[1], *sys.path) if p)
    for rank in range(size):
        place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}, "PYTHONPATH": path}
        words = [sys.executable, __file__, work, str(out), str(steps), str(timeout_s)]
        started.append(subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True))
    texts = [process.communicate(timeout=240 + 10 * timeout_s)[1] for process in started]
    return [Ended(process.returncode, text) for process, text in zip(started, texts, strict=True)]


def main(work: str, out: str, steps: str, timeout_s: str) -> int:
    """One process."""
    try:
        with use_world("cpu", float(timeout_s)) as world:
            globals()[work](world, Path(out), int(steps))
    except LightWAMError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(2)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
