# SPDX-License-Identifier: Apache-2.0
"""Progress bars on the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Advance = Callable[[int], None]


@contextlib.contextmanager
def progress_bar(label: str, total: int, show: bool) -> Iterator[Advance]:
    """A bar on the terminal that the yielded function advances; a function that does nothing when not `show`."""
    if not show:
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    remaining = TimeRemainingColumn(elapsed_when_finished=True)
    with Progress(TextColumn(label), BarColumn(), TaskProgressColumn(), remaining) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)


@contextlib.contextmanager
def counting_bar(label: str, show: bool, stderr: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar with numbers: the yielded function takes how much is done, and of how much."""
    if not show:
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True)
    with Progress(*columns, console=Console(stderr=stderr)) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def tally_bar(label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int, int], None]]:
    """A bar with a tally, `3/10  2 solved`: the yielded function advances both, the second in `unit`."""
    from rich import progress as rich

    tally = rich.TextColumn("{task.fields[tally]} " + unit)
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(), tally)
    with rich.Progress(*columns, rich.TimeElapsedColumn(), rich.TimeRemainingColumn()) as progress:
        task = progress.add_task(label, total=total, completed=done, tally=0)

        def advance(count: int, more: int) -> None:
            progress.update(task, advance=count, tally=progress.tasks[0].fields["tally"] + more)

        yield advance
