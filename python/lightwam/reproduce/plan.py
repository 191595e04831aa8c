# SPDX-License-Identifier: Apache-2.0
"""Plans: every command of a result, with its numbers and its cost. `plans/NAME.json` has their values.

A plan's stages are `lightwam` commands in their order. A stage `makes` products: name -> path in the folder of the
reproduction. `{data}` in an option stands for the path of the product `data`, `{out}` for the folder. A stage with
`each` is several commands, one for each name there, with the options of that name; `{each}` is the name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightwam.errors import ConfigError
from lightwam.files import read_json
from lightwam.number_lists import ranges_in

Option = str | int | float | bool | list[Any] | None
"""What an option of a command has; None: it is left out."""

REPORT = "report"
"""The last stage of every plan; it is no command."""

_FOLDER = Path(__file__).parent / "plans"
_PLACE = re.compile(r"\{([\w-]+)\}")
_EACH, _FIXED, _SHARED = "{each}", "fixed", "shared"
_SMOKE_SECONDS, _SMOKE_MEGABYTES = 10, 5  # of a step, where the plan does not say
_PLAN = {"about", "name", "measured", "stages"}
_STAGE = {"verb", "arguments", "options", "makes", "each", "workers", "seconds", "megabytes", "smoke", "smoke_each",
          "smoke_seconds"}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One command of a stage.

    makes: product -> path in the folder. workers: the option that says how many processes or threads work, or "".
    seconds, megabytes: `fixed`; `shared`, which workers share; and what one of an option's number costs, shared too
    (`trials*tasks`: of both numbers' product).
    """

    stage: str
    name: str
    verb: str
    arguments: tuple[str, ...]
    options: Mapping[str, Option]
    makes: Mapping[str, str]
    workers: str
    seconds: Mapping[str, float]
    megabytes: Mapping[str, float]

    def reads(self) -> tuple[str, ...]:
        """The products of other steps that this one reads."""
        texts = [*self.arguments, *(value for value in self.options.values() if isinstance(value, str))]
        places = dict.fromkeys(place for text in texts for place in _PLACE.findall(text))
        return tuple(place for place in places if place != "out" and place not in self.makes)

    def words(self, paths: Mapping[str, Path], workers: int, more: Sequence[str] = ()) -> list[str]:
        """The command after `lightwam`. paths: of `out` and of every product."""
        words = self.verb.split() + [_filled(text, paths) for text in self.arguments]
        for name, value in self.options.items():
            if value is None or value is False:
                words += [f"--no-{name}"] if value is False else []
            elif value is True:
                words.append(f"--{name}")
            elif isinstance(value, list):
                words += [f"--{name}", *map(str, value)]
            else:
                words += [f"--{name}", _filled(str(value), paths)]
        return [*words, *([f"--{self.workers}", str(workers)] if self.workers else []), *more]

    def cost(self, of: Mapping[str, float]) -> tuple[float, float]:
        """(what is fixed, what is shared) of `seconds` or `megabytes`."""
        varied = [each * math.prod(map(self._number, key.split("*"))) for key, each in of.items()
                  if key not in (_FIXED, _SHARED)]  # fmt: skip
        return of.get(_FIXED, 0.0), of.get(_SHARED, 0.0) + sum(varied)

    def _number(self, option: str) -> float:
        value = self.options.get(option, 0)
        if isinstance(value, str):
            ranges = ranges_in(value)
            return float(sum(map(len, ranges))) if ranges else 1.0
        return float(len(value) if isinstance(value, list) else value or 0)


@dataclass(frozen=True)
class Plan:
    """All steps, in order. measured: which machine the costs are of. smoke: tiny, to see that every stage works."""

    source: str
    name: str
    about: str
    measured: str
    smoke: bool
    steps: tuple[Step, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        """Their names, in order."""
        return (*dict.fromkeys(step.stage for step in self.steps), REPORT)

    def maker(self, product: str) -> Step:
        """The step that makes a product."""
        return next(step for step in self.steps if product in step.makes)

    def paths(self, folder: Path) -> dict[str, Path]:
        """Where the products are, and `out`, the folder."""
        return {"out": folder} | {name: folder / path for step in self.steps for name, path in step.makes.items()}


def plan_names() -> list[str]:
    """The plans that come with lightwam."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def read_plan(source: str, smoke: bool = False) -> Plan:
    """The plan of this name, or of a plan's file; with `smoke` its tiny form. Raises ConfigError."""
    path = _FOLDER / f"{source}.json" if source in plan_names() else Path(source)
    if not path.is_file():
        raise ConfigError(f"plan {source!r} is none of {', '.join(plan_names())}, and no file: give one of them")
    document = read_json(path, "plan", ConfigError, "give a plan's JSON file")
    _check_names(path, "plan", document, _PLAN)
    steps = [step for name, stage in document["stages"].items() for step in _steps(path, name, stage, smoke)]
    plan = Plan(path.stem, document["name"], document["about"], document["measured"], smoke, tuple(steps))
    _check_products(path, plan)
    return plan


def _steps(path: Path, stage: str, document: Mapping[str, Any], smoke: bool) -> list[Step]:
    _check_names(path, f"stage {stage}", document, _STAGE, needed={"verb"})
    each: dict[str, Any] = document.get("each", {"": {}})
    if smoke:
        each = {name: each[name] for name in document.get("smoke_each", each)}
    costs = [document.get(name, {}) for name in ("seconds", "megabytes")]
    if smoke:
        costs = [{_FIXED: document.get("smoke_seconds", _SMOKE_SECONDS)}, {_FIXED: _SMOKE_MEGABYTES}]
    return [
        Step(
            stage, f"{stage}/{name}" if name else stage, document["verb"], tuple(document.get("arguments", ())),
            _named({**document.get("options", {}), **changes, **(document.get("smoke", {}) if smoke else {})}, name),
            _named(document.get("makes", {}), name), document.get("workers", ""), *costs,
        )
        for name, changes in each.items()
    ]  # fmt: skip


def _named(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """With the name in place of {each}."""
    texts = {key: value.replace(_EACH, name) if isinstance(value, str) else value for key, value in document.items()}
    return {key.replace(_EACH, name): value for key, value in texts.items()}


def _check_names(
    path: Path, what: str, document: Mapping[str, Any], known: set[str], needed: set[str] | None = None
) -> None:
    """Raises ConfigError for entries that are unknown or missing."""
    unknown, missing = sorted(set(document) - known), sorted((known if needed is None else needed) - set(document))
    if unknown or missing:
        told = f"has unknown entries {unknown}" if unknown else f"lacks {', '.join(missing)}"
        raise ConfigError(f"plan {path}: {what} {told}: use {', '.join(sorted(known))}")


def _check_products(path: Path, plan: Plan) -> None:
    """Raises ConfigError where a step reads what no step before it makes."""
    made: set[str] = set()
    for step in plan.steps:
        for product in step.reads():
            if product not in made:
                raise ConfigError(f"plan {path}: {step.name} reads {{{product}}}, which no stage before it makes")
        made |= set(step.makes)


def _filled(text: str, paths: Mapping[str, Path]) -> str:
    return _PLACE.sub(lambda match: str(paths[match[1]]), text)
