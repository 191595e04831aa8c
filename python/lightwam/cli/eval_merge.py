# SPDX-License-Identifier: Apache-2.0
"""`lightwam eval merge`: parts of one evaluation as one report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightwam.cli.eval import tell
from lightwam.cli.parse import Positional
from lightwam.errors import ConfigError
from lightwam.sim.merge import merge
from lightwam.sim.reports import prepare_output, read_report, summary_line, write_report
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
    beside: tuple[Path, ...] = ()
    """Earlier reports (of baselines, say) to show and keep beside the result."""


def main(args: MergeArgs) -> int:
    """Merge, print and write. Raises ConfigError, DataError."""
    if not args.reports:
        raise ConfigError("no report is given: name those to merge")
    prepare_output(args.out)
    if args.markdown is not None:
        prepare_markdown(args.markdown)
    beside = [summary_line(read_report(path)) for path in args.beside]
    report = {**merge({path: read_report(path) for path in args.reports}), "beside": beside}
    write_report(args.out, report)
    tell(report, beside, args.out, args.markdown)
    return 0
