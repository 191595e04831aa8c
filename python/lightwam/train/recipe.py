# SPDX-License-Identifier: Apache-2.0
"""Recipes: every number of a training run, in groups. `recipes/NAME.json` has their values.

A recipe file is JSON: `base` (a recipe, or nothing), `about`, `policy`, and the groups below, each with the fields that
differ from the base. `policy` is a preset, or a document as `lightwam.config.read_config` reads it. Sources of the
values: docs/reference/recipes.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from lightwam.config import LightWAMConfig, TemporalWeighting, read_config
from lightwam.config.read import config_from_document
from lightwam.config.selection import Selection
from lightwam.config.serialize import dataclass_from_dict, dataclass_to_dict
from lightwam.data.augment import Augmentation
from lightwam.errors import ConfigError
from lightwam.files import read_json
from lightwam.model.attention import AttentionMethod
from lightwam.train.rollouts import Rollouts
from lightwam.train.run_folder import Keep

Precision = Literal["float32", "autocast", "bfloat16"]
_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length, batches and learning rate."""

    steps: int | None = None
    """Updates of the weights; None: as many as `--epochs` make."""
    epochs: int = 1
    """Passes over the data, where `--steps` is not given."""
    batch: int = 16
    """Samples of each micro-batch of each process."""
    accumulation: int = 1
    """Micro-batches of each update and process."""
    peak_learning_rate: float = 1e-4
    """Reached at the end of a linear warm-up."""
    warmup_steps: int | None = None
    """Updates until the peak; None: `--warmup-ratio` of all."""
    warmup_ratio: float = 0.05
    """Share of the updates until the peak, where `--warmup-steps` is not given."""
    decay: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: half a cosine down to 1 % of the peak, or nothing."""
    seed: int = 42
    """Order of the data, noise, times and first weights follow from it."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW on everything that trains, one group."""

    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    clip: bool = True
    """Clip the norm of the whole gradient. The published launch for several GPUs does not clip."""
    gradient_clip: float = 1.0
    """The largest norm."""
    fused: bool = True
    """PyTorch's fused AdamW, which passes over the weights once; `--no-fused`: one operation after the other."""
    ema_decay: float | None = None
    """Decay of averaged weights, which are then what the checkpoint holds. None: no average."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Weights of the losses; None: what the policy's configuration says."""

    lambda_video: float | None = None
    lambda_action: float | None = None
    prefix_steps: int | None = None
    """Control steps of a chunk with the weight `--prefix-weight`; the others have `--tail-weight`."""
    prefix_weight: float | None = None
    tail_weight: float | None = None
    video_batch: int | None = None
    """Samples of each micro-batch that get the video pass, drawn for themselves; None: all samples get both."""
    localisation_weight: float = 0.0
    """Of a head that must find the task's objects in the expert's features (where the data set notes them); the head is
    for training only."""
    state_dropout: float = 0.0
    """Share of samples whose state is hidden (zeros)."""


@dataclass(frozen=True, kw_only=True)
class Computing:
    """How the networks compute."""

    precision: Precision = "bfloat16"
    """float32; autocast: weights float32, matmuls bfloat16; bfloat16: all of it, float32 masters of what trains. With
    the last two, what is frozen is stored in bfloat16."""
    compact: bool = False
    """With float32: store the frozen blocks in bfloat16 and widen one at a time; use it with `--checkpointing`."""
    checkpointing: bool = False
    """Keep the input of each block alone and compute the block again in the backward pass: less memory, more time."""
    compile: bool = False
    """torch.compile of each block of the backbone, which takes minutes on a CPU. Its speed was not measured."""
    attention: AttentionMethod | None = None
    """How attention is computed. When absent, `softmax` on a CPU; on a GPU `kernels` (Triton), or `sdpa` where there
    are none for it."""


@dataclass(frozen=True, kw_only=True)
class Loading(Selection):
    """What of the data is used, and how it is loaded."""

    held_out: float = 0.0
    """Share of the episodes that is kept for validation."""
    shares: tuple[float, ...] = ()
    """Part of each data set relative to the others; nothing: every row counts the same."""
    sample_stride: int = 1
    """Use every so many-th control step of a window."""
    future_stride: int = 1
    """The video pass takes every so many-th row: futures of the other rows are not encoded."""
    variants: int = 4
    """With an augmentation and `--cache`: variants of each frame that are cached, one of them plain."""
    workers: int = 0
    """Processes that load; 0: the training process itself."""
    prefetch: int = 2
    """Micro-batches that each of them prepares ahead."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Curves, validation and saving."""

    log_every: int = 10
    """Updates between points of the curves."""
    eval_every: int | None = None
    """Updates between validations; None: at each save; 0: never."""
    save_every: int = 5000
    """Updates between saves."""
    keep_last: int = 2
    """Saves that stay."""
    keep_best: str | None = None
    """Name of a figure: the save where it is best stays too, as best/ (`held_out/action_l1`, `rollout/success`)."""
    stop_after: int | None = None
    """Save and stop at this update of the schedule, to continue later."""
    video_samples: int = 0
    """Held-out futures that each validation samples, for their PSNR by frame."""
    sampling_steps: int = 10
    """Steps of the sampler there."""
    wandb: str | None = None
    """Project at Weights & Biases that gets the curves too (extra `wandb`)."""

    @property
    def keep(self) -> Keep:
        """Which saves stay."""
        larger = self.keep_best is not None and ("psnr" in self.keep_best or "success" in self.keep_best)
        return Keep(last=self.keep_last, best=self.keep_best, larger_is_better=larger)


NO_AUGMENTATION = Augmentation(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, noise=0.0, shift=0.0)
"""As published."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A policy and how it is trained."""

    name: str
    policy: LightWAMConfig
    schedule: Schedule = Schedule()
    optimizer: Optimizer = Optimizer()
    losses: Losses = Losses()
    computing: Computing = Computing()
    loading: Loading = Loading()
    saving: Saving = Saving()
    augmentation: Augmentation = NO_AUGMENTATION
    rollouts: Rollouts = field(default_factory=Rollouts)
    about: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for group in groups(self).values():
            check_group(group)

    def resolved(self) -> Recipe:
        """With the weights of the losses in the policy's configuration, where a checkpoint keeps them."""
        losses, loss = self.losses, self.policy.loss
        weighting = loss.temporal_weighting
        given = {n: getattr(losses, n) for n in ("prefix_steps", "prefix_weight", "tail_weight")}
        given = {name: value for name, value in given.items() if value is not None}
        if given:
            weighting = replace(weighting or TemporalWeighting(self.policy.horizon, tail_weight=1.0), **given)
        changed = replace(
            loss,
            lambda_video=loss.lambda_video if losses.lambda_video is None else losses.lambda_video,
            lambda_action=loss.lambda_action if losses.lambda_action is None else losses.lambda_action,
            temporal_weighting=weighting,
        )
        return replace(self, policy=replace(self.policy, loss=changed))


Group = TypeVar("Group")
GROUPS: dict[str, type] = {
    "schedule": Schedule, "optimizer": Optimizer, "losses": Losses, "computing": Computing, "loading": Loading,
    "saving": Saving, "augmentation": Augmentation, "rollouts": Rollouts,
}  # fmt: skip

_LEAST = {
    "steps": 1, "epochs": 1, "batch": 1, "accumulation": 1, "video_batch": 0, "seed": 0, "warmup_steps": 0,
    "warmup_ratio": 0, "future_stride": 1, "sample_stride": 1, "log_every": 1, "save_every": 1, "eval_every": 0,
    "stop_after": 1, "keep_last": 1, "prefetch": 1, "variants": 1, "workers": 0, "video_samples": 0,
    "sampling_steps": 1, "localisation_weight": 0, "peak_learning_rate": 0, "weight_decay": 0,
    "lambda_video": 0, "lambda_action": 0, "rollout_every": 0, "rollout_trials": 1, "rollout_threads": 1,
}  # fmt: skip
_SHARES = ("held_out", "state_dropout", "ema_decay")


def groups(recipe: Any) -> dict[str, Any]:
    """The groups of a recipe, or of a command's arguments, by name."""
    return {name: getattr(recipe, name) for name in GROUPS if hasattr(recipe, name)}


def check_group(group: Any) -> None:
    """Raise `ConfigError` for an option that lies out of range."""
    for entry in dataclasses.fields(group):
        name, value = entry.name, getattr(group, entry.name)
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, float) and math.isnan(value):
            raise ConfigError(f"{option} is {value}: give a number")
        if name in _LEAST and value is not None and value < _LEAST[name]:
            raise ConfigError(f"{option} is {value}: use at least {_LEAST[name]}")
        if name in _SHARES and value is not None and not 0.0 <= value < 1.0:
            raise ConfigError(f"{option} is {value}: use a share from 0 to below 1")
        if name == "gradient_clip" and not value > 0:
            raise ConfigError(f"{option} is {value}: use a number above 0, or --no-clip")
        if name == "rollout_minutes" and not value > 0:
            raise ConfigError(f"{option} is {value}: use a number above 0")


def recipe_names() -> list[str]:
    """The recipes that come with lightwam."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def read_recipe(source: str) -> Recipe:
    """The recipe of this name, or of a recipe file. Raises `ConfigError`."""
    if source not in recipe_names() and not Path(source).is_file():
        raise ConfigError(f"recipe {source!r} is none of {', '.join(recipe_names())}, and no file: give one of them")
    path = _FOLDER / f"{source}.json" if source in recipe_names() else Path(source)
    return recipe_from_document(_document(path, ()), path)


def is_recipe(path: Path) -> bool:
    """Whether a JSON file is a recipe: not a configuration of a policy, nor a robot file."""
    document = _json(path)
    return "policy" in document or any(name in document for name in GROUPS)


def recipe_from_document(document: Mapping[str, Any], path: Path) -> Recipe:
    """A recipe from its JSON; `path` is the file that errors name, and where a policy's files are looked for."""
    document = dict(document)
    policy = document.pop("policy", None)
    if policy is None:
        raise ConfigError(f"recipe {path} names no policy: give a preset or a configuration as 'policy', or a base")
    config = read_config(policy) if isinstance(policy, str) else config_from_document(policy, path)
    name = str(document.pop("name", path.stem))
    unknown = sorted(set(document) - set(GROUPS) - {"about", "inputs"})
    if unknown:
        raise ConfigError(f"recipe {path} has unknown entries {unknown}: use policy, base, about, {', '.join(GROUPS)}")
    document["augmentation"] = {**dataclass_to_dict(NO_AUGMENTATION), **document.get("augmentation", {})}
    made: dict[str, Any] = {group: dataclass_from_dict(kind, document.get(group, {}), f"recipe {path.name} {group}")
            for group, kind in GROUPS.items()}  # fmt: skip
    return Recipe(name=name, policy=config, about=str(document.get("about", "")), **made)


def recipe_to_document(recipe: Recipe) -> dict[str, Any]:
    """JSON that `recipe_from_document` turns back into an equal recipe."""
    parts = {name: dataclass_to_dict(group) for name, group in groups(recipe).items()}
    return {"name": recipe.name, "about": recipe.about, "policy": recipe.policy.to_dict(), **parts}


def _document(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The content of a recipe file on its base."""
    document = _json(path)
    base = document.pop("base", None)
    if base is None:
        return document
    below = _FOLDER / f"{base}.json" if base in recipe_names() else path.parent / str(base)
    if below.resolve() in (*above, path.resolve()):
        raise ConfigError(f"recipe {path}: its base {base!r} leads back to itself: name another base")
    merged = _document(below, (*above, path.resolve()))
    merged.pop("name", None)
    for name, value in document.items():
        both = name in GROUPS and isinstance(value, Mapping)
        merged[name] = {**merged.get(name, {}), **value} if both else value
    return merged


def _json(path: Path) -> dict[str, Any]:
    return read_json(path, "recipe", ConfigError, "give the path of a JSON file")
