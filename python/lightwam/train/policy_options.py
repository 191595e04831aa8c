# SPDX-License-Identifier: Apache-2.0
"""The arguments of `lightwam train policy`: a recipe, changes to it, and what a run reads and where it computes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from lightwam.config import read_config
from lightwam.config.serialize import dataclass_to_dict
from lightwam.data.augment import Augmentation
from lightwam.errors import ConfigError
from lightwam.train.policy_data import PolicyInputs
from lightwam.train.recipe import (
    NO_AUGMENTATION,
    Computing,
    Loading,
    Losses,
    Optimizer,
    Recipe,
    Saving,
    Schedule,
    groups,
    is_recipe,
    read_recipe,
    recipe_to_document,
)
from lightwam.train.rollouts import Rollouts
from lightwam.train.sharding import Sharding

RECIPE_FILE = "recipe.json"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where training computes. Several processes: torchrun."""

    device: str = "cpu"
    """cpu, cuda (the first GPU; under torchrun each process its own) or cuda:N."""
    threads: int = 1
    """CPU threads of PyTorch in each process."""
    sharding: Sharding = "ddp"
    """How several processes share the model: each a copy, or each a part of every weight (FSDP2)."""
    timeout: float = 600.0
    """Seconds that a process waits for the others."""


@dataclass(frozen=True, kw_only=True)
class PolicyTrainArgs:
    """Train a policy by a recipe; a run that was interrupted resumes. The defaults below are those of the recipe:
    'lightwam train policy --recipe NAME --help' shows NAME's."""

    defaults_follow: ClassVar[tuple[str, ...]] = ("recipe", "config")

    out: Path
    """Folder of the run: checkpoint/, best/, recipe.json, curves, saves/."""
    recipe: str = "nano"
    """libero_spatial, libero_object, libero_goal, libero_10, robotwin, real_robot, nano, nano_object, or a
    recipe file."""
    config: str | None = None
    """JSON file: a recipe (recipe.json of a run is one), or a policy in place of the recipe's: a preset, a
    configuration, or a robot on top of one."""
    allow_changed: tuple[str, ...] = ()
    """What may differ from the run that is resumed, by the names that its refusal gives."""
    inputs: PolicyInputs
    machine: Machine = Machine()
    schedule: Schedule = field(default_factory=Schedule)
    optimizer: Optimizer = field(default_factory=Optimizer)
    losses: Losses = field(default_factory=Losses)
    computing: Computing = field(default_factory=Computing)
    loading: Loading = field(default_factory=Loading)
    saving: Saving = field(default_factory=Saving)
    augmentation: Augmentation = NO_AUGMENTATION
    rollouts: Rollouts = field(default_factory=Rollouts)

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The groups of the chosen recipe."""
        return groups(_chosen(given.get("recipe", "nano"), given.get("config")))

    def resolved(self) -> Recipe:
        """The recipe with the policy of `config` and the changed options. Raises `ConfigError`."""
        recipe = replace(_chosen(self.recipe, self.config), **groups(self))
        return recipe.resolved()


def _chosen(recipe: str, config: str | None) -> Recipe:
    if config is None:
        return read_recipe(recipe)
    if Path(config).is_file() and is_recipe(Path(config)):
        return read_recipe(config)
    return replace(read_recipe(recipe), policy=read_config(config))


def run_document(recipe: Recipe, args: PolicyTrainArgs) -> dict[str, Any]:
    """What recipe.json of a run holds: the resolved recipe, and under `inputs` what the run read."""
    inputs = json.loads(json.dumps(dataclass_to_dict(args.inputs), default=str))
    return {**recipe_to_document(recipe), "inputs": inputs}


def check_machine(machine: Machine) -> None:
    """Raise `ConfigError` for options of the machine that lie out of range."""
    if machine.threads < 1:
        raise ConfigError(f"--threads is {machine.threads}: use at least 1")
    if not machine.timeout > 0:
        raise ConfigError(f"--timeout is {machine.timeout}: use a number of seconds above 0")
