# SPDX-License-Identifier: Apache-2.0
"""The parts of a page that need no script: summaries, the published table, tasks by perturbation, conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lightwam.sim.page.content import Entry, Evaluation
from lightwam.sim.page.markup import Markup, head_of, join, rows_of, tag
from lightwam.sim.plan import UNPERTURBED
from lightwam.sim.tables import published, success

COLOURS = 6  # of evaluations, in page.css


def mark(shown: Sequence[Evaluation], number: int) -> Markup:
    """The letter of an evaluation in its colour."""
    return tag("b", shown[number].letter, class_=f"mark c{number % COLOURS}")


def summaries(shown: Sequence[Evaluation]) -> Markup:
    """A card for each evaluation."""
    return tag("ul", *(_summary(shown, number) for number in range(len(shown))), class_="cards")


def _summary(shown: Sequence[Evaluation], number: int) -> Markup:
    one = shown[number]
    plain = [row for row in one.rows if row["perturb"] == UNPERTURBED] if len(one.rows) > 1 else []
    counted = plain[0] if plain else one.document
    successes, trials = int(counted["successes"]), int(counted["trials"])
    low, high = (100 * end for end in success(successes, trials)["interval_95"])
    rate = f"{100 * successes / trials:.1f} %" if trials else "no trial"
    latency = one.document.get("latency", {}).get("p50_ms")
    told = [
        f"{successes} of {trials} solved" + (", unperturbed" if plain else ""),
        f"95 % interval {low:.1f} to {high:.1f} %",
    ]
    told += [f"chunk p50 {latency} ms"] if latency is not None else []
    return tag(
        "li",
        tag("h3", mark(shown, number), " ", one.label),
        tag("p", rate, class_="rate"),
        tag("p", " · ".join(told)),
        *(tag("p", "⚠ ", lack, class_="lack") for lack in one.lacks if lack.startswith("unfinished")),
        class_=f"card c{number % COLOURS}",
    )


def success_table(shown: Sequence[Evaluation]) -> Markup:
    """The published form: a row for each evaluation and perturbation."""
    header, cells = published([{**one.document, "rows": one.rows} for one in shown])
    about = [(number, row) for number, one in enumerate(shown) for row in one.rows]
    lines = []
    for (number, row), line in zip(about, cells, strict=True):
        filters = {"data_report": shown[number].letter, "data_perturbation": row["perturb"]}
        filters |= {f"data_{name}": shown[number].text(name) for name in ("policy", "states")}
        cells_of = (tag("td", cell, class_="number" if "%" in name else None) for name, cell in _named(header, line))
        lines.append(tag("tr", tag("th", mark(shown, number), scope="row"), *cells_of, **filters))
    return tag("table", head_of(["", *header]), tag("tbody", *lines), id="published")


def _named(header: Sequence[str], line: Sequence[str]) -> Sequence[tuple[str, str]]:
    return list(zip(header, line, strict=True))


def grid(shown: Sequence[Evaluation]) -> Markup:
    """A row for each evaluation and task, a column for each perturbation: successes of trials."""
    perturbations = list(dict.fromkeys(entry.perturb for one in shown for entry in one.entries))
    lines = []
    for number, one in enumerate(shown):
        tasks: dict[tuple[str, int], dict[str, Entry]] = {}
        for entry in one.entries:
            tasks.setdefault((entry.suite, entry.task), {})[entry.perturb] = entry
        for (suite, task), by_perturb in tasks.items():
            cells = [_cell(name, by_perturb.get(name)) for name in perturbations]
            head = tag("th", mark(shown, number), f" {suite} {task}", scope="row")
            instruction = tag("td", next(iter(by_perturb.values())).instruction)
            filters = {"data_report": one.letter, "data_suite": suite, "data_task": task}
            filters |= {f"data_{name}": one.text(name) for name in ("policy", "states")}
            lines.append(tag("tr", head, instruction, *cells, **filters))
    heads = (tag("th", name, scope="col", data_perturbation=name) for name in perturbations)
    top = tag("tr", tag("th", "task", scope="col"), tag("th", "instruction", scope="col"), *heads)
    return tag("table", tag("thead", top), tag("tbody", *lines), id="grid")


def _cell(perturb: str, entry: Entry | None) -> Markup:
    """`18/20`, shaded by the share."""
    if entry is None or not entry.trials:
        return tag("td", "-", class_="count", data_perturbation=perturb)
    share = round(100 * entry.successes / entry.trials)
    shade = f"--share:{share}%"
    return tag(
        "td", f"{entry.successes}/{entry.trials}", class_="count", style=shade, title=f"{share} %",
        data_perturbation=perturb,
    )  # fmt: skip


def stages(shown: Sequence[Evaluation]) -> Markup:
    """Median milliseconds of each stage of a chunk, a column for each evaluation that says them."""
    having = [(number, one.document["stages"]) for number, one in enumerate(shown) if one.document.get("stages")]
    if not having:
        return tag("p", "No report says how long the stages of a chunk took.", class_="lack")
    names = list(dict.fromkeys(name for _, told in having for name in told))
    cells = [[name, *(str(told.get(name, "-")) for _, told in having)] for name in names]
    heads = (tag("th", mark(shown, number), scope="col") for number, _ in having)
    head = tag("thead", tag("tr", tag("th", "stage, median ms", scope="col"), *heads))
    return tag("table", head, tag("tbody", rows_of(cells)), id="stages")


def conditions(shown: Sequence[Evaluation]) -> Markup:
    """All that the reports say of how they ran, a column each; rows in which they differ are marked."""
    told = [_conditions(one.document) for one in shown]
    lines = []
    for name in dict.fromkeys(name for one in told for name in one):
        values = [one.get(name, "not said") for one in told]
        differ = len(set(values)) > 1
        head = tag("th", name, *([" ", tag("i", "differs")] if differ else []), scope="row")
        lines.append(tag("tr", head, *(tag("td", value) for value in values), class_="differs" if differ else None))
    heads = (tag("th", mark(shown, number), " ", one.label, scope="col") for number, one in enumerate(shown))
    head = tag("thead", tag("tr", tag("th", "condition", scope="col"), *heads))
    return tag("table", head, tag("tbody", *lines), id="conditions")


def _conditions(document: Mapping[str, Any]) -> dict[str, str]:
    names = ("policy", "policy_sha256", "runs_on", "protocol", "states", "suite", "tasks", "executed_steps_a_chunk")
    found = {name.replace("_", " "): _text(document[name]) for name in names if name in document}
    nested = {"": document.get("conditions"), "protocol: ": document.get("protocol_values")}
    for before, values in nested.items():
        found |= {before + name.replace("_", " "): _text(value) for name, value in (values or {}).items()}
    environment = dict(document.get("environment") or {})
    versions = environment.pop("versions", {})
    found |= {f"version of {name}": _text(version) for name, version in versions.items()}
    found |= {name.replace("_", " "): _text(value) for name, value in environment.items()}
    if "merged_from" in document:
        found["merged from"] = _text(document["merged_from"])
    return found


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, (str, int)) for one in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def lacks(shown: Sequence[Evaluation]) -> Markup:
    """What each report does not say."""
    lines = [
        tag("li", mark(shown, number), " ", join([f"{one.source}: "]), "; ".join(one.lacks) or "nothing")
        for number, one in enumerate(shown)
    ]
    return tag("ul", *lines, id="lacks")
