# SPDX-License-Identifier: Apache-2.0
"""Success as the field publishes it: suites as columns and their mean, with intervals; as text and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from lightwam.errors import ConfigError
from lightwam.file_kind import FileKind
from lightwam.files import check_output, replacing_file
from lightwam.sim.plan import UNPERTURBED
from lightwam.terminal import table

_NORMAL_975 = 1.959963984540054  # the normal distribution's quantile of 0.975
_MARK = "<!-- lightwam eval -->"


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a success rate; 0 to 1 where there is no trial."""
    if trials == 0:
        return 0.0, 1.0
    z2 = _NORMAL_975**2
    centre = (successes + z2 / 2) / (trials + z2)
    half = _NORMAL_975 * sqrt(successes * (trials - successes) / trials + z2 / 4) / (trials + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def success(successes: int, trials: int) -> dict[str, Any]:
    """Counts, and the interval of their share."""
    return {
        "successes": successes,
        "trials": trials,
        "interval_95": [round(end, 4) for end in wilson(successes, trials)],
    }


def rows(per_task: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each perturbation: successes of each suite, the mean of the suites' rates in percent, and all trials.

    per_task: entries of a report: suite, perturb, successes, trials.
    """
    counts: dict[str, dict[str, list[int]]] = {}
    for entry in per_task:
        one = counts.setdefault(entry.get("perturb", UNPERTURBED), {}).setdefault(entry["suite"], [0, 0])
        one[0] += entry["successes"]
        one[1] += entry["trials"]
    found = []
    for perturb, suites in counts.items():
        by_suite = {suite: success(*count) for suite, count in suites.items()}
        rates = [count[0] / count[1] for count in suites.values() if count[1]]
        mean = round(100 * sum(rates) / len(rates), 2) if rates else None
        every = success(*(sum(count[at] for count in suites.values()) for at in (0, 1)))
        found.append({"perturb": perturb, "by_suite": by_suite, "mean": mean, **every})
    return found


def published(reports: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells: a line for each report and perturbation, a column for each suite."""
    lines = [(report, row) for report in reports for row in report.get("rows", ())]
    suites = list(dict.fromkeys(suite for _, row in lines for suite in row["by_suite"]))
    varied = any(row["perturb"] != UNPERTURBED for _, row in lines)
    header = ["policy", "protocol", "states", *(["perturbed"] if varied else []), *suites, "mean %"]
    cells = []
    for report, row in lines:
        about = [str(report.get(name, "-")) for name in ("policy", "protocol", "states")]
        shown = [_cell(row["by_suite"].get(suite)) for suite in suites]
        mean = "-" if row["mean"] is None else f"{row['mean']:.1f}"
        cells.append([*about, *([row["perturb"]] if varied else []), *shown, mean])
    return header, cells


def _cell(counted: Mapping[str, Any] | None) -> str:
    """`90.0 (69.9-97.2) of 20`: percent, interval, trials."""
    if counted is None or not counted["trials"]:
        return "-"
    low, high = (100 * end for end in counted["interval_95"])
    return f"{100 * counted['successes'] / counted['trials']:.1f} ({low:.1f}-{high:.1f}) of {counted['trials']}"


def as_text(reports: Sequence[Mapping[str, Any]]) -> str:
    """The published form for a terminal."""
    header, cells = published(reports)
    return table(header, cells, "success in percent (95 % interval)")


def prepare_markdown(path: Path) -> None:
    """Raises ConfigError where the Markdown table may not be written as `path`."""
    check_output(path, "a table", ConfigError, _is_table, option="--markdown")


def _is_table(path: Path, _: FileKind) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MARK)) == _MARK.encode()


def write_markdown(path: Path, reports: Sequence[Mapping[str, Any]]) -> None:
    """Write the published form, and the first report's tasks one by one, as Markdown."""
    header, cells = published(reports)
    parts = [
        _MARK,
        "",
        "Success in percent (Wilson's 95 % interval) of so many trials.",
        "",
        markdown_table(header, cells),
    ]
    entries = reports[0].get("per_task", ())
    if entries:
        each = [
            [entry["suite"], str(entry["task"]), entry.get("perturb", UNPERTURBED), entry["instruction"], _cell(entry)]
            for entry in entries
        ]
        parts += ["", markdown_table(["suite", "task", "perturbed", "instruction", "success"], each)]
    with replacing_file(path) as building:
        building.write_text("\n".join(parts) + "\n", encoding="utf-8")


def markdown_table(header: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
