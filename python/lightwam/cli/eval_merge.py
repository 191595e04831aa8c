# SPDX-License-Identifier: Apache-2.0
"""`lightwam eval merge`: parts of one evaluation as one report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lightwam.cli.eval import tell, tell_page
from lightwam.cli.parse import Positional
from lightwam.errors import ConfigError
from lightwam.sim.merge import merge
from lightwam.sim.page.write import prepare_page
from lightwam.sim.reports import film_folders, prepare_output, read_report, summary_line, write_report
from lightwam.sim.tables import prepare_markdown


@dataclass(frozen=True)
class MergeArgs:
    """Join reports of `lightwam eval` that ran other tasks, trials or perturbations of one evaluation.

    Another policy, protocol, kind of states, simulator or version is refused by name."""

    reports: Positional[tuple[Path, ...]]
    """Reports, those of unfinished evaluations too."""
    out: Path
    markdown: Path | None = None
    """File for the table in the published form, as Markdown."""
    html: Path | None = None
    """HTML file that shows the result, and those beside it: tables, figures, films, filters."""
    films_mb: int = 32
    """Limit of the films in the HTML file, in megabytes; what is left out is told there. 0: no film."""
    beside: tuple[Path, ...] = ()
    """Earlier reports (of baselines, say) to show and keep beside the result."""


def main(args: MergeArgs) -> int:
    """Merge, print and write. Raises ConfigError, DataError."""
    if not args.reports:
        raise ConfigError("no report is given: name those to merge")
    prepare_output(args.out)
    if args.markdown is not None:
        prepare_markdown(args.markdown)
    if args.html is not None:
        prepare_page(args.html, [args.out, *args.reports, *args.beside], args.films_mb)
    earlier = {path: read_report(path) for path in args.beside}
    beside = [summary_line(report) for report in earlier.values()]
    parts = {path: read_report(path) for path in args.reports}
    folders = [folder for path, part in parts.items() for folder in film_folders(path, part)]
    videos = list(dict.fromkeys(os.path.relpath(folder, args.out.parent) for folder in folders))
    report = {**merge(parts), "videos": videos, "beside": beside}
    write_report(args.out, report)
    tell(report, beside, args.out, args.markdown)
    if args.html is not None:
        tell_page(args.html, {args.out: report, **earlier}, args.films_mb)
    return 0
