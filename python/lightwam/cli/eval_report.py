# SPDX-License-Identifier: Apache-2.0
"""`lightwam eval report`: reports as one HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightwam.cli.parse import Positional
from lightwam.errors import ConfigError
from lightwam.sim.page.write import prepare_page, told_films, write_page
from lightwam.sim.reports import read_report


@dataclass(frozen=True)
class ReportArgs:
    """Show reports of `lightwam eval` side by side in one HTML file: tables, figures, films, filters.

    The file needs nothing beside it and loads nothing."""

    reports: Positional[tuple[Path, ...]]
    """Reports of whatever evaluations, those of unfinished ones too."""
    out: Path
    """HTML file."""
    videos: tuple[Path, ...] = ()
    """More folders with films, beside those that the reports name."""
    films_mb: int = 32
    """Limit of the films in the HTML file, in megabytes; what is left out is told there. 0: no film."""


def main(args: ReportArgs) -> int:
    """Read, write, say what is in it. Raises ConfigError, DataError."""
    if not args.reports:
        raise ConfigError("no report is given: name those to show")
    prepare_page(args.out, args.reports, args.films_mb, "--out")
    reports = {path: read_report(path) for path in args.reports}
    chosen = write_page(args.out, reports, films_mb=args.films_mb, videos=args.videos)
    print(told_films(chosen, args.films_mb))
    print(f"page: {args.out}")
    return 0
