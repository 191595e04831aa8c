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
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    with Progress(TextColumn(label), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)


@contextlib.contextmanager
def counting_bar(label: str, show: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar with numbers: the yielded function takes how much is done, and of how much."""
    if not show:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    time = TimeRemainingColumn(elapsed_when_finished=True)
    with Progress(TextColumn(label), BarColumn(), MofNCompleteColumn(), time) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
