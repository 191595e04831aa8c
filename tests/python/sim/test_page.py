# SPDX-License-Identifier: Apache-2.0
"""The HTML page of evaluations: its numbers are those of the reports, its films those of the trials, nothing else."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.browser import opened
from helpers.built_once import BuiltOnce
from helpers.html_tables import Page
from helpers.toy_sim import NAME
from lightwam import cli
from lightwam.errors import DataError
from lightwam.sim.page.write import write_page
from lightwam.sim.tables import rows, success, wilson

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=\"alert('2')\"> {title} & 'it'"


def build(folder: Path) -> None:
    """Two evaluations with films: `a.json`, under two perturbations, and the failures of `b.json`; and their page."""
    base, run = folder / "replay.npz", f"eval --sim {NAME} --policy {folder}/replay.npz --tasks all --trials 4"
    assert cli.main(f"train replay --sim {NAME} --state 2 --out {base}".split()) == 0
    assert cli.main(f"{run} --perturb none delay:1 --videos {folder}/films --out {folder}/a.json".split()) == 0
    more = f"--states shifted --videos {folder}/failed --videos-of failures"
    page = f"--beside {folder}/a.json --html {folder}/page.html"
    assert cli.main(f"{run} {more} --out {folder}/b.json {page}".split()) == 0


@pytest.fixture
def folder(built_once: BuiltOnce, tmp_path: Path) -> Path:
    """A copy of what `build` makes."""
    return Path(shutil.copytree(built_once("pages", build), tmp_path / "pages"))


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def made_up(**changed: Any) -> dict[str, Any]:
    """A report of one task: two trials, one solved."""
    runs = [{"index": i, "success": i == 0, "steps": 9 + i, "chunks": 2} for i in (0, 1)]
    entry = {"suite": "reach", "task": 0, "perturb": "none", "instruction": "go", **success(1, 2), "runs": runs}
    whole = {"policy": "p.npz", "states": "official", "protocol": "quick", "suite": "reach", "tasks": [0]}
    return {**whole, **success(1, 2), "per_task": [entry], "rows": rows([entry]), "beside": [], **changed}


def interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's, to four digits."""
    low, high = wilson(successes, trials)
    return round(low, 4), round(high, 4)


def paged(tmp_path: Path, *reports: Mapping[str, Any], films_mb: int = 1) -> Page:
    out = tmp_path / "made.html"
    write_page(out, {tmp_path / f"{number}.json": one for number, one in enumerate(reports)}, films_mb=films_mb)
    return Page(out.read_text())


def test_all_numbers_are_those_of_the_reports(folder: Path) -> None:
    page, reports = Page((folder / "page.html").read_text()), [read(folder / "b.json"), read(folder / "a.json")]
    shown = iter(page.tables["published"][1:])
    for letter, report in zip("AB", reports, strict=True):
        for row in report["rows"]:
            (low, high), count = interval(row["successes"], row["trials"]), row["successes"]
            cell = f"{100 * count / 8:.1f} ({100 * low:.1f}-{100 * high:.1f}) of 8"
            about = [letter, "replay.npz", "quick", report["states"], row["perturb"]]
            assert next(shown) == [*about, cell, f"{row['mean']:.1f}"]
    assert next(shown, None) is None
    grid = page.tables["grid"]
    counts = {
        (line[0], name): cell
        for line in grid[1:]
        for name, cell in zip(grid[0][2:], line[2:], strict=True)
        if cell != "-"
    }
    assert counts == {
        (f"{letter} {entry['suite']} {entry['task']}", entry["perturb"]): f"{entry['successes']}/{entry['trials']}"
        for letter, report in zip("AB", reports, strict=True)
        for entry in report["per_task"]
    }
    assert len(counts) == 6
    data = json.loads(page.find(name="script", id="data")[0].text)
    runs = [run for report in reports for entry in report["per_task"] for run in entry["runs"]]
    assert [trial[1:5] for trial in data["trials"]] == [
        [run["index"], int(run["success"]), run["steps"], run["chunks"]] for run in runs
    ]


def test_the_page_needs_nothing_beside_it(folder: Path) -> None:
    text = (folder / "page.html").read_text()
    page = Page(text)
    assert not [one for one in page.elements if {"src", "href", "srcset", "action"} & set(one.attributes)]
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", text)
    policy = page.find(**{"http-equiv": "Content-Security-Policy"})[0].attributes["content"]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and "connect-src" not in policy


def test_text_of_others_stays_text(tmp_path: Path) -> None:
    entry = {**made_up()["per_task"][0], "suite": HOSTILE, "instruction": HOSTILE, "perturb": HOSTILE}
    report = made_up(
        policy=HOSTILE, protocol=HOSTILE, per_task=[entry], rows=rows([entry]), conditions={HOSTILE: HOSTILE}
    )
    page, plain = paged(tmp_path, report), paged(tmp_path, made_up())
    scripts, usual = (one.find(name="script") for one in (page, plain))
    assert len(scripts) == len(usual) and scripts[-1].text == usual[-1].text
    assert not page.find(name="img") and not [one for one in page.elements if "onerror" in one.attributes]
    assert json.loads(page.find(name="script", id="data")[0].text)["tasks"][0]["instruction"] == HOSTILE
    assert " ".join(HOSTILE.split()) in page.tables["grid"][1]


def test_films_are_those_of_the_trials(folder: Path) -> None:
    report, page = read(folder / "b.json"), Page((folder / "page.html").read_text())
    data = json.loads(page.find(name="script", id="data")[0].text)
    for task, index, _, _, _, film in data["trials"]:
        told = data["tasks"][task]
        perturb = "" if told["perturbation"] == "none" else "_" + told["perturbation"].replace(":", "-")
        place, states = ("failed", "shifted") if told["report"] == 0 else ("films", "official")
        file = folder / place / f"reach_{told['task']}_{states}{perturb}_{index:03d}.mp4"
        assert (film is None) == (not file.exists())
        if film is not None:
            assert base64.b64decode(page.find(id=f"film-{film}")[0].text) == file.read_bytes()
    names = {run["film"]["file"] for entry in report["per_task"] for run in entry["runs"] if "film" in run}
    assert names == {path.name for path in (folder / "failed").glob("*.mp4")} and names


def test_films_that_are_not_in_the_page_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "films/reach_0_official_000.mp4").unlink()
    (folder / "films/reach_0_official_001.mp4").write_bytes(b"another evaluation's")
    words = ["eval", "report", f"{folder}/a.json", "--out", f"{folder}/a.html"]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "14 of 16 films are in this page" in told
    assert "1 whose file is missing" in told and "1 whose file is another one now" in told
    page = Page((folder / "a.html").read_text())
    assert "1 whose file is another one now" in page.find(id="film-note")[0].text
    assert cli.main([*words, "--films-mb", "0"]) == 0
    assert "0 of 16 films" in capsys.readouterr().out and "film-0" not in (folder / "a.html").read_text()
    shutil.move(folder / "films", folder / "moved")
    assert cli.main([*words, "--videos", f"{folder}/moved"]) == 0 and "14 of 16" in capsys.readouterr().out


def test_failures_are_embedded_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightwam.sim.page.content import evaluations
    from lightwam.sim.page.films import OVER, choose_films

    (one,) = evaluations({folder / "a.json": read(folder / "a.json")})
    every = choose_films([one], 10**9)
    failed = {place for place in every.inside if not one.entries[place[1]].runs[place[2]].success}
    limit = sum(len(every.inside[place]) for place in failed)
    some = choose_films([one], limit)
    assert failed and set(some.inside) == failed and set(some.outside.values()) == {OVER} and some.size == limit


def test_a_merged_report_keeps_its_films(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "deep").mkdir()
    out = folder / "deep/merged.json"
    words = ["eval", "merge", f"{folder}/a.json", f"{folder}/a.json", "--out", str(out)]
    assert cli.main([*words, "--html", f"{folder}/m.html"]) == 0
    assert read(out)["videos"] == ["../films"] and "16 of 16 films" in capsys.readouterr().out
    lacks = Page((folder / "m.html").read_text()).find(id="lacks")[0].text
    assert "no percentiles of chunk latency, only the mean" in lacks


def test_what_a_report_lacks_is_said(tmp_path: Path) -> None:
    summary = {name: value for name, value in made_up(policy="old.npz").items() if name not in ("per_task", "beside")}
    demo = {**made_up(policy="demo.npz", instruction="go"), "runs": made_up()["per_task"][0]["runs"]}
    del demo["per_task"], demo["rows"]
    stopped = made_up(unfinished={"reason": "SimulatorError: no", "missing": {"0": [2, 3]}}, beside=[summary])
    page = paged(tmp_path, stopped, demo)
    lacks = page.find(id="lacks")[0].text
    assert "unfinished (SimulatorError: no): 2 trials are missing" in lacks
    assert "no trials one by one" in lacks and "no films" in lacks and "no chunk latency" in lacks
    assert [line[1] for line in page.tables["published"][1:]] == ["p.npz", "demo.npz", "old.npz"]
    assert page.find(id="film-note")[0].text == "The reports name no films."


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"per_task": [{"suite": "reach"}]}, "is damaged"),
        ({"per_task": [7]}, "is damaged"),
        ({"successes": 2}, "contradicts itself"),
        ({"per_task": [{**made_up()["per_task"][0], "trials": 3}]}, "has other trials than it counts"),
        ({"beside": 3}, "is damaged"),
        ({"videos": "films"}, "is damaged"),
    ],
)
def test_damaged_reports_are_named(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        paged(tmp_path, made_up(**changed))
    assert "\n" not in str(caught.value) and not (tmp_path / "made.html").exists()


def test_nothing_of_others_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, out = tmp_path / "r.json", tmp_path / "notes.html"
    report.write_text(json.dumps(made_up()))
    out.write_text("<!doctype html><p>my own notes")
    words = ["eval", "report", str(report), "--out"]
    assert cli.main([*words, str(out)]) == 2 and "nothing is replaced" in capsys.readouterr().err
    assert out.read_text() == "<!doctype html><p>my own notes"
    assert cli.main([*words, str(report)]) == 2 and "is or holds the input" in capsys.readouterr().err
    assert cli.main([*words, str(tmp_path / "new/page.html")]) == 0
    assert cli.main([*words, str(tmp_path / "new/page.html")]) == 0  # our own
    assert cli.main([*words, str(out), "--films-mb", "-1"]) == 2 and "--films-mb -1" in capsys.readouterr().err
    assert read(report) == made_up()


def told(successes: int, trials: int) -> str:
    """As the page's script writes a rate."""
    low, high = interval(successes, trials)
    return f"{successes} of {trials}: {100 * successes / trials:.1f} % ({100 * low:.1f}\u2013{100 * high:.1f})"


def test_the_scripts_count_as_the_report_does(folder: Path, tmp_path: Path) -> None:
    page = opened(folder / "page.html", "", tmp_path / "profile")
    reports = [read(folder / "b.json"), read(folder / "a.json")]
    figures = [line[2] for line in page.tables["plot-task"] if len(line) == 4][1:]
    plain = [
        told(entry["successes"], entry["trials"])
        for task in (0, 1)
        for report in reports
        for entry in report["per_task"]
        if (entry["task"], entry["perturb"]) == (task, "none")
    ]
    assert figures == plain
    assert [line[2] for line in page.tables["plot-perturbation"] if len(line) == 4][1:] == [
        told(row["successes"], row["trials"]) for report in reports for row in report["rows"]
    ]
    trials = page.tables["trial-table"][1:]
    assert len(trials) == sum(report["trials"] for report in reports) == 24
    assert len(page.find(name="video")) == 12 and page.find(name="video")[0].attributes["src"].startswith("blob:")


def test_the_address_sets_the_filters(folder: Path, tmp_path: Path) -> None:
    report = read(folder / "a.json")
    fragment = "report=B&task=1&outcome=failure&perturbation=none&suite=nowhere&theme=dark"
    page = opened(folder / "page.html", fragment, tmp_path / "profile")
    (entry,) = (one for one in report["per_task"] if (one["task"], one["perturb"]) == (1, "none"))
    failed = [run for run in entry["runs"] if not run["success"]]
    assert [(line[2], line[4], line[6]) for line in page.tables["trial-table"][1:]] == [
        ("1", str(run["index"]), str(run["steps"])) for run in failed
    ]
    status = page.find(id="status")[0].text
    assert f"4 of 24 trials: {entry['successes']} solved" in status and f"Listed: {len(failed)} with" in status
    assert "left out: suite nowhere" in status
    assert [line[0] for line in page.tables["published"][1:]] == ["B"] and len(page.tables["grid"]) == 2
    assert page.find(name="html")[0].attributes["data-theme"] == "dark"
    assert len(page.find(name="video")) == len(failed)


def test_hostile_text_does_nothing_in_a_browser(tmp_path: Path) -> None:
    entry = {**made_up()["per_task"][0], "suite": HOSTILE, "instruction": HOSTILE}
    paged(tmp_path, made_up(policy=HOSTILE, per_task=[entry], rows=rows([entry])))
    page = opened(tmp_path / "made.html", "", tmp_path / "profile")
    assert not page.find(name="img") and f"{HOSTILE} 0: {HOSTILE}" in page.tables["plot-task"][1][0]
