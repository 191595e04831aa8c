# SPDX-License-Identifier: Apache-2.0
"""Which films of trials a page holds: those whose content is that which the report names, up to a size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightwam.sim.page.content import Evaluation, Run

MISSING, ANOTHER, OVER = "missing", "another", "over"
"""Why a film is not in the page: no such file; the file was replaced since; the limit."""

Place = tuple[int, int, int]  # of a trial: evaluation, entry, run


@dataclass
class Chosen:
    """`inside`: films to embed, by trial. `outside`: why others are not. `size`: bytes of those inside."""

    inside: dict[Place, bytes] = field(default_factory=dict)
    outside: dict[Place, str] = field(default_factory=dict)
    size: int = 0


def choose_films(shown: Sequence[Evaluation], limit: int) -> Chosen:
    """The films that fit into `limit` bytes. Every task has its turn, and its failures come before its successes."""
    chosen = Chosen()
    for place in _in_turn(shown):
        number, entry, run = place
        evaluation = shown[number]
        content = _content(evaluation.folders, evaluation.entries[entry].runs[run])
        if isinstance(content, str):
            chosen.outside[place] = content
        elif chosen.size + len(content) > limit:
            chosen.outside[place] = OVER
        else:
            chosen.inside[place] = content
            chosen.size += len(content)
    return chosen


def _in_turn(shown: Sequence[Evaluation]) -> Iterator[Place]:
    queues: list[list[Place]] = []
    for number, evaluation in enumerate(shown):
        for at, entry in enumerate(evaluation.entries):
            order = sorted(range(len(entry.runs)), key=lambda run, runs=entry.runs: runs[run].success)  # type: ignore[misc]
            queues.append([(number, at, run) for run in order if entry.runs[run].film])
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))


def _content(folders: Sequence[Path], run: Run) -> bytes | str:
    """The film, or why there is none."""
    found = MISSING
    name = Path(run.film.get("file", "")).name  # a report names files of its folders, nothing elsewhere
    for folder in folders:
        path = folder / name
        if not name or not path.is_file():
            continue
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == run.film.get("sha256"):
            return content
        found = ANOTHER
    return found
