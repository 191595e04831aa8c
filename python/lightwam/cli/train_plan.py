# SPDX-License-Identifier: Apache-2.0
"""`lightwam train plan`: the memory that a training takes on each GPU, and a batch that fits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lightwam.config import read_config
from lightwam.errors import ConfigError
from lightwam.terminal import table
from lightwam.train.plan import MemoryPlan, Proposal
from lightwam.train.recipe import Recipe, read_recipe

GB = 1e9
_PARTS = ("weights", "masters", "gradients", "optimizer", "average", "gathered", "activations", "other")


@dataclass(frozen=True, kw_only=True)
class PlanArgs:
    """Predict the memory of a training on each GPU, and propose sharding, batch and checkpointing."""

    recipe: str = "libero_spatial"
    """libero_spatial, libero_object, libero_goal, libero_10, robotwin, real_robot, nano, nano_object, or a
    recipe file."""
    config: str | None = None
    """A policy in place of the recipe's: a preset, a configuration, or a robot on top of one."""
    gpus: int = 1
    """GPUs of all machines together."""
    gpu_memory: float = 80.0
    """Memory of each, in GB (10^9 bytes)."""
    batch: int | None = None
    """Samples of each micro-batch of each GPU (default: the recipe's)."""


def main(args: PlanArgs) -> int:
    """Print the plan; status 1 where nothing fits. Raises ConfigError."""
    if not (math.isfinite(args.gpu_memory) and args.gpu_memory > 0):
        raise ConfigError(f"--gpu-memory is {args.gpu_memory}: give the GB of a GPU")
    recipe = read_recipe(args.recipe)
    if args.config is not None:
        recipe = replace(recipe, policy=read_config(args.config))
    recipe = recipe.resolved()
    batch = args.batch or recipe.schedule.batch
    plan = MemoryPlan(recipe, args.gpus)
    _print_recipe(plan, args, batch)
    return 0 if _print_proposals(plan.propose(int(args.gpu_memory * GB)), args, recipe) else 1


def _print_recipe(plan: MemoryPlan, args: PlanArgs, batch: int) -> None:
    columns = []
    for sharding in ("ddp", "fsdp") if args.gpus > 1 else ("ddp",):
        for checkpointing in (False, True):
            name = f"{sharding if args.gpus > 1 else 'one GPU'}{', checkpointing' if checkpointing else ''}"
            columns.append((name, plan.predict(sharding, batch, checkpointing)))
    rows = [(part, *(_gb(getattr(memory, part)) for _, memory in columns)) for part in _PARTS]
    rows.append(("all", *(_gb(memory.total) for _, memory in columns)))
    recipe = plan.recipe
    title = f"{recipe.name}, {args.gpus} GPU(s), batch {batch} each, {recipe.computing.precision}: GB on each GPU"
    print(table(("", *(name for name, _ in columns)), rows, title))


def _print_proposals(found: list[Proposal], args: PlanArgs, recipe: Recipe) -> bool:
    if not found:
        print(f"nothing fits into {args.gpu_memory:g} GB, not even batch 1 with checkpointing: use more or larger GPUs")
        return False
    rows = [(p.sharding if args.gpus > 1 else "one GPU", "yes" if p.checkpointing else "no", str(p.batch),
             _gb(p.memory.total)) for p in found]  # fmt: skip
    print(table(("sharding", "checkpointing", "largest batch", "GB"), rows, f"what fits into {args.gpu_memory:g} GB"))
    wanted = recipe.schedule.batch
    best = next((p for p in found if p.batch >= wanted), max(found, key=lambda p: p.batch))
    batch = min(best.batch, wanted)
    options = f"--batch {batch} --sharding {best.sharding}{' --checkpointing' if best.checkpointing else ''}"
    turns = f" --accumulation {-(-wanted // batch) * recipe.schedule.accumulation}" if batch < wanted else ""
    nodes, each = max(1, args.gpus // 8), min(args.gpus, 8)
    start = (
        f"torchrun --nnodes {nodes} --nproc-per-node {each} --rdzv-backend c10d --rdzv-endpoint HOST:29500"
        if nodes > 1
        else f"torchrun --standalone --nproc-per-node {each}"
    )
    launch = "lightwam" if args.gpus == 1 else f"{start} -m lightwam.cli"
    print(f"{launch} train policy --recipe {args.recipe} --device cuda {options}{turns} --data ... --out ...")
    return True


def _gb(size: int) -> str:
    return f"{size / GB:.2f}"
