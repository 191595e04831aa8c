# SPDX-License-Identifier: Apache-2.0
"""The report of a reproduction, in Markdown: success, beside the figures of the bundled policy, and times."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from lightwam.assets import bundled_figures
from lightwam.files import replacing_file
from lightwam.reproduce.child import Run
from lightwam.reproduce.estimates import clock, seconds_of, size, usable_cpus
from lightwam.reproduce.plan import Step
from lightwam.reproduce.records import Folder
from lightwam.sim.reports import read_report
from lightwam.sim.tables import markdown_table, published, wilson

FILE, HTML = "report.md", "report.html"


def write_report(folder: Folder, workers: int, html: str, run: Run) -> Path:
    """Write report.md from what is done; with a verb that makes HTML of evaluations, report.html too. Its path."""
    evaluations = [step for step in folder.plan.steps if step.verb == "eval" and folder.is_done(step)]
    files = [folder.paths[product] for step in evaluations for product in step.makes]
    reports = [read_report(file) for file in files]
    parts = [f"# {folder.plan.name}, made again", folder.plan.about]
    if folder.plan.smoke:
        parts.append("**A smoke run: everything is tiny, and the figures mean nothing.**")
    parts.append(f"Made until {date.today().isoformat()}, Python {platform.python_version()}, {_machine()}.")
    if reports:
        header, cells = published(reports)
        parts += [
            "## Success",
            "Percent, with Wilson's 95 % interval, of so many trials.",
            markdown_table(header, cells),
        ]
        parts += ["## Each task", _each_task(reports)]
    beside = [] if folder.plan.smoke else _beside(reports)
    if beside:
        parts += [
            "## Beside the bundled policy", "Successes here, and those that came with lightwam. Intervals of two equal "
            "policies overlap nearly always.",
            markdown_table(("policy", "states", "here", "bundled", "intervals overlap"), beside),
        ]  # fmt: skip
    parts += ["## Files", markdown_table(("file", "size"), _files(folder))]
    parts += ["## Steps", markdown_table(("step", "time", "estimated", "command"), _steps(folder, workers))]
    with replacing_file(folder.path / FILE) as building:
        building.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    if html and files:
        words = [*html.split(), *map(str, files), "--out", str(folder.path / HTML)]
        run(words, "report", folder.path / "logs" / "report.log")
    return folder.path / FILE


def _machine() -> str:
    """The processor's name where Linux tells it, and how many CPUs this process may use."""
    name = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{usable_cpus()} CPUs ({name})"


def _each_task(reports: Sequence[Mapping[str, Any]]) -> str:
    """A line for each task, a column for each report."""
    columns = [f"{Path(report['policy']).stem}, {report['states']}" for report in reports]
    instructions = {(entry["suite"], entry["task"]): entry["instruction"] for report in reports
                    for entry in report["per_task"]}  # fmt: skip
    counts = [{(entry["suite"], entry["task"]): f"{entry['successes']} of {entry['trials']}"
               for entry in report["per_task"]} for report in reports]  # fmt: skip
    rows = [[str(task[1]), text, *(count.get(task, "-") for count in counts)]
            for task, text in sorted(instructions.items())]  # fmt: skip
    return markdown_table(["task", "instruction", *columns], rows)


def _beside(reports: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Each report beside the bundled figures of the same policy, states and number of tasks."""
    found = []
    for report in reports:
        for other in bundled_figures():
            if all(_about(report, name) == _about(other, name) for name in ("policy", "states", "tasks")):
                one, two = (wilson(each["successes"], each["trials"]) for each in (report, other))
                overlap = "yes" if one[0] <= two[1] and two[0] <= one[1] else "no"
                counts = (f"{each['successes']} of {each['trials']}" for each in (report, other))
                found.append((report["policy"], report["states"], *counts, overlap))
    return found


def _about(report: Mapping[str, Any], name: str) -> Any:
    return sorted(report[name]) if isinstance(report[name], list) else report[name]


def _files(folder: Folder) -> list[tuple[str, str]]:
    """The products that are single files."""
    made = [(path, folder.path / path) for step in folder.plan.steps if folder.is_done(step)
            for path in step.makes.values()]  # fmt: skip
    return [(path, size(file.stat().st_size)) for path, file in made if file.is_file()]


def _steps(folder: Folder, workers: int) -> list[tuple[str, ...]]:
    return [_step(folder, step, workers) for step in folder.plan.steps]


def _step(folder: Folder, step: Step, workers: int) -> tuple[str, ...]:
    record = folder.read(step)
    if record is None:
        return (step.name, "-", clock(seconds_of(step, workers)), "-")
    took = clock(record.seconds) if record.done else f"{clock(record.seconds)}, not done"
    return (step.name, took, clock(seconds_of(step, workers)), f"`{record.command}`")
