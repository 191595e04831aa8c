# SPDX-License-Identifier: Apache-2.0
"""Writes the page: one file that loads nothing, and that forbids itself to (Content-Security-Policy)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightwam.errors import ConfigError
from lightwam.file_kind import FileKind
from lightwam.files import check_output, replacing_file
from lightwam.sim.page import tables
from lightwam.sim.page.content import Evaluation, evaluations
from lightwam.sim.page.films import ANOTHER, MISSING, OVER, Chosen, choose_films
from lightwam.sim.page.markup import Markup, join, tag

_MARK = "<!doctype html><!-- lightwam eval -->"
_SCRIPTS = ("dom.js", "filters.js", "plots.js", "curves.js", "trials.js", "page.js")
_WHY = {
    MISSING: "whose file is missing",
    ANOTHER: "whose file is another one now",
    OVER: "beyond the limit of {limit} MB",
}


def prepare_page(path: Path, inputs: Iterable[Path] = (), films_mb: int = 0, option: str = "--html") -> None:
    """Make the folder of a page before the work that it shows.

    option: the one that names `path`. Raises ConfigError where `path` may not be written, or is one of the `inputs`;
    for a negative limit of films.
    """
    if films_mb < 0:
        raise ConfigError(f"--films-mb {films_mb}: at least 0, which embeds no film")
    check_output(path, "a page of an evaluation", ConfigError, _is_page, inputs, option=option)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"page {path} cannot be written ({error.strerror}): give another {option}") from error


def _is_page(path: Path, _: FileKind) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MARK)) == _MARK.encode()


def write_page(
    path: Path, reports: Mapping[Path, Mapping[str, Any]], *, films_mb: int = 32, videos: Sequence[Path] = ()
) -> Chosen:
    """Write one page of reports, by their files; returns which films it holds.

    films_mb: limit of the films, in 10^6 bytes. videos: folders of films beside those that the reports name.
    Raises DataError where a report is damaged.
    """
    shown = evaluations(reports, videos)
    chosen = choose_films(shown, films_mb * 1_000_000)
    with replacing_file(path) as building:
        building.write_text(page(shown, chosen, films_mb), encoding="utf-8")
    return chosen


def page(shown: Sequence[Evaluation], chosen: Chosen, films_mb: int) -> str:
    """The page's text."""
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; media-src blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    title = "Evaluation: " + ", ".join(dict.fromkeys(one.text("policy") for one in shown))
    head = tag(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        tag("title", title),
        tag("style", Markup(_asset("page.css"))),
    )
    films = [
        tag("script", Markup(base64.b64encode(content).decode()), type="text/plain", id=f"film-{number}")
        for number, content in enumerate(chosen.inside.values())
    ]
    data = tag("script", _json(_data(shown, chosen)), type="application/json", id="data")
    parts = [_body(title, shown, told_films(chosen, films_mb)), data, *films, tag("script", Markup(script))]
    return f"{_MARK}\n{tag('html', head, tag('body', *parts), lang='en')}\n"


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _body(title: str, shown: Sequence[Evaluation], films: str) -> Markup:
    """The page without its data: `body.html`, in which {name} stands for what is made of the reports."""
    parts = {
        "title": join([title]),
        "summaries": tables.summaries(shown),
        "success": tables.success_table(shown),
        "grid": tables.grid(shown),
        "stages": tables.stages(shown),
        "films": join([films]),
        "lacks": tables.lacks(shown),
        "conditions": tables.conditions(shown),
    }
    return Markup(_asset("body.html").format(**parts))


def told_films(chosen: Chosen, films_mb: int) -> str:
    """How many films are embedded, and why others are not."""
    count = len(chosen.inside)
    if not count and not chosen.outside:
        return "The reports name no films."
    told = f"{count} of {count + len(chosen.outside)} films are in this page ({chosen.size / 1e6:.1f} MB)"
    reasons = Counter(chosen.outside.values())
    left_out = [f"{number} {_WHY[why].format(limit=films_mb)}" for why, number in reasons.items()]
    return f"{told}; left out: {', '.join(left_out)}." if left_out else f"{told}."


def _json(value: Any) -> Markup:
    """JSON that ends no script element."""
    text = json.dumps(value, separators=(",", ":"))  # ASCII
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _data(shown: Sequence[Evaluation], chosen: Chosen) -> dict[str, Any]:
    """What the script reads: reports, tasks, and trials as [task, index, success, steps, chunks, film].

    film: the number of its element, the word why it is not in the page, or null where the report names none.
    """
    numbers = {place: number for number, place in enumerate(chosen.inside)}
    reports: list[Any] = []
    tasks: list[Any] = []
    trials: list[Any] = []
    for at, one in enumerate(shown):
        reports.append(_report(one))
        for number, entry in enumerate(one.entries):
            for run, trial in enumerate(entry.runs):
                place = (at, number, run)
                film = numbers.get(place, chosen.outside.get(place))
                trials.append([len(tasks), trial.index, int(trial.success), trial.steps, trial.chunks, film])
            told = {"suite": entry.suite, "task": entry.task, "perturbation": entry.perturb}
            tasks.append({"report": at, **told, "instruction": entry.instruction, "latency": dict(entry.latency)})
    return {"reports": reports, "tasks": tasks, "trials": trials}


def _report(one: Evaluation) -> dict[str, Any]:
    values = one.document.get("protocol_values") or {}
    names = ("policy", "states", "protocol")
    return {
        "letter": one.letter,
        "label": one.label,
        **{name: one.text(name) for name in names},
        "latency": one.document.get("latency", {}),
        "limits": values.get("max_steps", {}),
    }
