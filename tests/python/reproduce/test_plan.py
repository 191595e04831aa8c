# SPDX-License-Identifier: Apache-2.0
"""Plans: their commands, products and costs; the bundled plan's commands are ones that the verbs take."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from helpers.toy_plan import toy_document, write_plan
from helpers.toy_sim import NAME
from lightwam import cli
from lightwam.cli.parse import parse
from lightwam.errors import ConfigError
from lightwam.reproduce.estimates import bytes_of, clock, pace, seconds_of, size
from lightwam.reproduce.plan import plan_names, read_plan


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write_plan(tmp_path / "toy.json", toy_document())


def test_a_plan_is_commands(plan: Path) -> None:
    full = read_plan(str(plan))
    assert full.stages == ("record", "replay", "evaluate", "check", "report")
    assert [step.name for step in full.steps] == [
        "record", "replay", "evaluate/official", "evaluate/shifted", "check",
    ]  # fmt: skip
    paths = full.paths(Path("f"))
    assert " ".join(full.steps[0].words(paths, 2, ["--any-simulator"])) == (
        f"record --sim {NAME} --out f/data --episodes 3 --clips 2 --seed 5 --processes 2 --any-simulator"
    )
    assert " ".join(full.steps[3].words(paths, 2)) == (
        f"eval --sim {NAME} --policy f/replay.npz --tasks 0-1 --trials 2 --out f/results/shifted.json --states shifted"
    )
    assert full.steps[4].words(paths, 2) == ["data", "check", "f/data"]
    assert full.steps[3].reads() == ("replay",) and full.steps[4].reads() == ("data",)
    smoke = read_plan(str(plan), smoke=True)
    assert [step.name for step in smoke.steps] == ["record", "replay", "evaluate/shifted", "check"]
    assert smoke.steps[0].options["episodes"] == 1 and smoke.steps[0].options["clips"] == 2


def test_options_of_every_kind() -> None:
    step = read_plan("libero_object").steps[0]
    options = {"yes": True, "no": False, "none": None, "several": [1, "a b"], "number": 0.5}
    changed = type(step)("s", "s", "verb", (), options, {}, "", {}, {})
    assert changed.words({}, 1) == ["verb", "--yes", "--no-no", "--several", "1", "a b", "--number", "0.5"]


def test_costs(plan: Path) -> None:
    record, _, official, *_ = read_plan(str(plan)).steps
    assert seconds_of(record, 1) == 10 + 3 * 100 + 2 * 50 and seconds_of(record, 4) == 10 + 400 / 4
    assert bytes_of(record) == 6e6 and seconds_of(official, 2) == 2 * 2 * 3
    assert pace([]) == 1 and pace([(10, 20)]) == 1 and pace([(150, 50), (150, 50)]) == 3
    assert clock(3661.4) == "1:01:01" and size(2.34e9) == "2.3 GB" and size(5e6) == "5 MB" and size(2e4) == "20 kB"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pace": 1}, r"plan has unknown entries \['pace'\]"),
        ({"stages": {"a": {"options": {}}}}, "stage a lacks verb"),
        ({"stages": {"a": {"verb": "bench", "when": 1}}}, r"stage a has unknown entries \['when'\]"),
        ({"stages": {"a": {"verb": "eval", "options": {"policy": "{engine}"}}}}, "a reads {engine}, which no stage"),
    ],
)
def test_what_is_no_plan(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        read_plan(str(write_plan(tmp_path / "p.json", {**toy_document(), **changes})))


def test_an_unknown_plan_is_named() -> None:
    with pytest.raises(ConfigError, match="plan 'moon' is none of libero_object, and no file"):
        read_plan("moon")


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", plan_names())
def test_the_verbs_take_the_commands_of_every_plan(name: str, smoke: bool) -> None:
    plan = read_plan(name, smoke)
    for step in plan.steps:
        found = cli.find_verb(step.words(plan.paths(Path("f")), 2))
        assert found is not None
        verb = cli.VERBS[found[0]]
        parsed = parse(getattr(importlib.import_module(verb.module), verb.arguments), found[0], found[1])
        assert parsed is not None
    ends = [step.stage for step in plan.steps]
    assert ends == sorted(ends, key=plan.stages.index)
