# SPDX-License-Identifier: Apache-2.0
"""Recipes: the published values, files on a base, changes on the command line, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from lightwam.cli.parse import parse
from lightwam.errors import ConfigError
from lightwam.train.policy_options import PolicyTrainArgs
from lightwam.train.recipe import Recipe, Schedule, read_recipe, recipe_names, recipe_to_document

PUBLISHED = {
    # name: (learning rate, steps, accumulation, supervised steps, save every, held out)
    "libero_spatial": (2e-4, 150_000, 1, 8, 10_000, 0.0),
    "libero_goal": (2e-4, 150_000, 1, 8, 5_000, 0.0),
    "libero_object": (1e-4, 150_000, 1, 8, 5_000, 0.0),
    "libero_10": (1e-4, 150_000, 1, 8, 5_000, 0.0),
    "robotwin": (1e-4, 500_000, 2, 24, 5_000, 0.01),
    "real_robot": (1e-4, 150_000, 1, 24, 5_000, 0.05),
}


def test_all_recipes_are_known() -> None:
    assert set(recipe_names()) == {*PUBLISHED, "nano", "nano_object"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name: str) -> None:
    recipe = read_recipe(name).resolved()
    rate, steps, accumulation, prefix, save_every, held_out = PUBLISHED[name]
    schedule, optimizer, loss = recipe.schedule, recipe.optimizer, recipe.policy.loss
    assert (schedule.peak_learning_rate, schedule.steps, schedule.accumulation) == (rate, steps, accumulation)
    assert (schedule.batch, schedule.warmup_steps, schedule.decay, schedule.seed) == (16, 1000, "cosine", 42)
    assert (optimizer.weight_decay, optimizer.betas, optimizer.eps) == (0.01, (0.9, 0.95), 1e-8)
    assert optimizer.clip and optimizer.gradient_clip == 1.0 and optimizer.ema_decay is None
    assert (loss.lambda_video, loss.lambda_action) == (1.0, 1.0)
    weighting = loss.temporal_weighting
    assert weighting is not None
    assert (weighting.prefix_steps, weighting.prefix_weight, weighting.tail_weight) == (prefix, 1.0, 0.0)
    assert recipe.computing.precision == "bfloat16" and recipe.augmentation.changes_nothing
    assert (recipe.saving.save_every, recipe.loading.held_out) == (save_every, held_out)
    assert recipe.losses.video_batch is None and recipe.losses.localisation_weight == 0


def test_every_recipe_survives_a_round_trip(tmp_path: Path) -> None:
    for name in recipe_names():
        recipe = read_recipe(name).resolved()
        (tmp_path / "recipe.json").write_text(json.dumps(recipe_to_document(recipe)))
        assert read_recipe(str(tmp_path / "recipe.json")) == recipe


def arguments(*words: str) -> PolicyTrainArgs:
    return parse(PolicyTrainArgs, "lightwam train policy", ["--data", "d", "--out", "o", *words])


def test_options_change_the_chosen_recipe() -> None:
    given = arguments("--recipe", "libero_spatial", "--batch", "4", "--no-clip", "--tail-weight", "0.5")
    recipe, base = given.resolved(), read_recipe("libero_spatial")
    assert recipe.schedule == dataclasses.replace(base.schedule, batch=4) and not recipe.optimizer.clip
    weighting = recipe.policy.loss.temporal_weighting
    assert weighting is not None and (weighting.prefix_steps, weighting.tail_weight) == (8, 0.5)
    assert arguments().resolved().policy.name == "nano"


def test_a_recipe_file_stands_on_a_base(tmp_path: Path) -> None:
    mine = {"base": "libero_goal", "schedule": {"batch": 8}, "policy": {"base": "libero", "name": "mine"}}
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    for words in (("--recipe", str(tmp_path / "mine.json")), ("--config", str(tmp_path / "mine.json"))):
        recipe = arguments(*words).resolved()
        assert recipe.name == "mine" and recipe.policy.name == "mine"
        assert recipe.schedule == dataclasses.replace(read_recipe("libero_goal").schedule, batch=8)


def test_config_may_be_a_policy_for_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text(json.dumps({"base": "nano", "name": "small"}))
    recipe = arguments("--recipe", "libero_object", "--config", str(tmp_path / "policy.json")).resolved()
    assert recipe.policy.name == "small" and recipe.schedule.steps == 150_000


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"base": "libero_goal", "schedule": {"bach": 8}}, r"unknown fields \['bach'\]"),
        ({"base": "libero_goal", "optimiser": {}, "schedule": {}}, r"unknown entries \['optimiser'\]"),
        ({"schedule": {}}, "names no policy"),
        ({"base": "libero_goal", "schedule": {"batch": 0}}, "--batch is 0"),
        ({"base": "libero_goal", "loading": {"held_out": 1.0}}, "--held-out is 1.0"),
        ({"base": "mine.json", "schedule": {}}, "leads back to itself"),
        ({"base": "nothing.json", "schedule": {}}, "recipe .*nothing.json"),
    ],
)
def test_bad_recipe_files(tmp_path: Path, document: dict[str, object], message: str) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=message):
        read_recipe(str(tmp_path / "mine.json"))


def test_an_unknown_recipe_is_answered_with_all_names() -> None:
    with pytest.raises(ConfigError, match=r"libero_10, libero_goal, .*real_robot"):
        arguments("--recipe", "libero")
    with pytest.raises(ConfigError, match="--peak-learning-rate is nan"):
        Recipe(name="x", policy=read_recipe("nano").policy, schedule=Schedule(peak_learning_rate=math.nan))
