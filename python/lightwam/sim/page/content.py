# SPDX-License-Identifier: Apache-2.0
"""What a page shows of reports: evaluations, their tasks and trials, in one form whichever verb wrote them."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightwam.errors import DataError
from lightwam.sim.plan import UNPERTURBED
from lightwam.sim.reports import film_folders, summary_line
from lightwam.sim.tables import rows


@dataclass(frozen=True)
class Run:
    """One trial. `film`: name and sha256 of its video, {} where the report names none."""

    index: int
    success: bool
    steps: int
    chunks: int
    film: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """The trials of a task under a perturbation."""

    suite: str
    task: int
    perturb: str
    instruction: str
    successes: int
    trials: int
    latency: Mapping[str, float]
    runs: Sequence[Run]


@dataclass(frozen=True)
class Evaluation:
    """A report. `letter` stands for it on the page; `source`: its file, or whose `beside` it comes from."""

    letter: str
    source: str
    label: str
    document: Mapping[str, Any]  # as read
    rows: Sequence[Mapping[str, Any]]  # of the published table; none: the report does not say
    entries: Sequence[Entry]  # none: the report does not say
    folders: Sequence[Path]  # of films
    lacks: Sequence[str]  # what it does not say, for people

    def text(self, name: str) -> str:
        """A value of the report as text, "-" where it is missing."""
        return str(self.document.get(name, "-"))


def evaluations(reports: Mapping[Path, Mapping[str, Any]], videos: Sequence[Path] = ()) -> list[Evaluation]:
    """The reports, and those that they keep beside them unless given themselves. videos: more folders of films.

    Raises DataError where a report is damaged or contradicts itself.
    """
    found: list[tuple[str, Mapping[str, Any], list[Path]]] = []
    for path, report in reports.items():
        found.append((str(path), report, [*film_folders(path, report), *videos]))
    known: list[Mapping[str, Any]] = [summary_line(dict(report)) for report in reports.values()]
    for path, report in reports.items():
        for number, summary in enumerate(_list(path, report.get("beside", []))):
            if summary not in known:
                known.append(summary)
                found.append((f"{path}, beside {number + 1}", summary, []))
    labels = _labels([(source, document) for source, document, _ in found])
    made = zip(_letters(), labels, found, strict=False)
    return [_evaluation(letter, label, *one) for letter, label, one in made]


def _evaluation(
    letter: str, label: str, source: str, document: Mapping[str, Any], folders: Sequence[Path]
) -> Evaluation:
    try:
        entries = [_entry(each) for each in _per_task(document)]
        found = list(document.get("rows") or rows(vars(entry) for entry in entries))
        for row in found:
            for one in (row, *row["by_suite"].values()):
                _ = int(one["successes"]), int(one["trials"]), [float(end) for end in one["interval_95"]]
        int(document["successes"]), int(document["trials"])
        lacks = list(_lacks(document, entries, found))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        told = f"{type(error).__name__}: {error}"
        raise DataError(f"report {source} is damaged ({told}): make it again with `lightwam eval`") from error
    if entries and sum(entry.successes for entry in entries) != document["successes"]:
        raise DataError(f"report {source} contradicts itself: its tasks have other successes than the whole")
    return Evaluation(letter, source, label, document, found, entries, folders, lacks)


def _per_task(document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The entries of a report; of one of `lightwam demo`, which has one task, the entry that it would have."""
    if "runs" in document:
        return [{**document, "task": document["tasks"][0]}]
    entries: Sequence[Mapping[str, Any]] = document.get("per_task", [])
    return entries


def _entry(told: Mapping[str, Any]) -> Entry:
    runs = [
        Run(int(run["index"]), bool(run["success"]), int(run["steps"]), int(run["chunks"]), dict(run.get("film", {})))
        for run in told["runs"]
    ]
    entry = Entry(
        str(told["suite"]), int(told["task"]), str(told.get("perturb", UNPERTURBED)), str(told.get("instruction", "-")),
        int(told["successes"]), int(told["trials"]), dict(told.get("latency", {})), runs,
    )  # fmt: skip
    if (sum(run.success for run in runs), len(runs)) != (entry.successes, entry.trials):
        raise ValueError(f"{entry.suite} task {entry.task} has other trials than it counts")
    return entry


def _lacks(document: Mapping[str, Any], entries: Sequence[Entry], found: Sequence[Any]) -> Iterator[str]:
    if "unfinished" in document:
        missing = sum(len(indices) for indices in document["unfinished"]["missing"].values())
        yield f"unfinished ({document['unfinished']['reason']}): {missing} trials are missing"
    if not entries:
        yield "no trials one by one: it is in the table of success and nowhere else"
    if not found:
        yield "no rows: it is not in the table of success"
    latency = document.get("latency", {})
    if not latency.get("chunks"):
        yield "no chunk latency"
    elif "p50_ms" not in latency:
        yield "no percentiles of chunk latency, only the mean: it was merged from parts"
    if not any(run.film for entry in entries for run in entry.runs):
        yield "no films: `lightwam eval --videos` makes them"
    if entries and not any("simulator" in run for entry in _per_task(document) for run in entry["runs"]):
        yield "no fingerprint of the simulator"
    if "environment" not in document:
        yield "no versions"


def _labels(reports: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Policy and states, and what else tells reports apart; the source where nothing does."""
    told = [_about(document) for _, document in reports]
    names = list(dict.fromkeys(name for one in told for name in one))
    shown = ["policy", "states"]
    for name in names:
        if _kinds(told, [*shown, name]) > _kinds(told, shown):
            shown.append(name)
    labels = [" · ".join(dict.fromkeys(one[name] for name in shown if name in one)) or "unnamed" for one in told]
    sources = [source for source, _ in reports]
    return [
        f"{label} · {source}" if labels.count(label) > 1 else label
        for label, source in zip(labels, sources, strict=True)
    ]


def _kinds(told: Sequence[Mapping[str, str]], names: Sequence[str]) -> int:
    """How many reports these values tell apart."""
    return len({tuple(one.get(name) for name in names) for one in told})


def _about(document: Mapping[str, Any]) -> dict[str, str]:
    """What tells reports apart, in words."""
    environment = document.get("environment") or {}
    versions = environment.get("versions") or {}
    told = {name: str(document[name]) for name in ("policy", "states", "protocol") if name in document}
    if "renderer" in environment:
        told["renderer"] = f"renderer {environment['renderer']}"
    return {**told, **{f"version of {name}": f"{name} {version}" for name, version in versions.items()}}


def _letters() -> Iterator[str]:
    """A, B, ..., Z, AA, AB, ..."""
    yield from string.ascii_uppercase
    for first in _letters():
        yield from (first + second for second in string.ascii_uppercase)


def _list(path: Path, value: Any) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise DataError(f"report {path} is damaged (beside is no list of reports): make it again with `lightwam eval`")
    return value
