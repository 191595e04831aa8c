# SPDX-License-Identifier: Apache-2.0
"""What a plan moves through device memory when the GPU's last-level cache (L2) keeps what was used last.

A model, pessimistic where in doubt: least recently used lines of 4 KiB, half of the nominal size, cold at the start. A
launch first touches what each of its programs reads anew; through everything else it goes at one pace, so a long read
(weights) drives out what the launch itself has written. Written lines cost a write when they leave, dead or not, and
at the end of the chunk. A side stream goes through its arguments while the launches beside it go through theirs: both
at one pace from the first line to the last. All that is known of caches stands in this file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise

from lightwam.gpu.intervals import Intervals
from lightwam.gpu.plan import Launch, LaunchPlan, ProgramPlan, Touch, accesses
from lightwam.gpu.report import counted_end
from lightwam.gpu.side import parts

#: Bytes of a line: coarser than the hardware's, so that a chunk is a million touches.
LINE = 4096
#: Of the nominal size. What else lives there, sets that fill unevenly, and copies in both halves (H100) take the rest.
USABLE = 0.5
#: Arguments that all programs of a row or column of tiles read whole: they're in the cache from the first tiles on.
_FIRST: Mapping[str, tuple[str, ...]] = {
    "matmul": ("x",),
    "matvec": ("x",),
    "conv2d": ("weight",),
    "cross_attention": ("key_text", "value_text"),
    "cross_attention_folded": ("key_text", "output_text"),
}


#: Block and number; bytes of it that are used; whether written.
Line = tuple[tuple[str, int], int, bool]


class Cache:
    """Lines in order of their last use, with the bytes of each that memory doesn't have yet."""

    def __init__(self, capacity: float) -> None:
        """`capacity` in bytes, all of it usable."""
        self._unwritten: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._limit = int(capacity) // LINE

    def flush(self) -> int:
        """Write back everything; returns its bytes."""
        moved = sum(self._unwritten.values())
        self._unwritten.clear()
        return moved

    def use(self, line: Line) -> int:
        """Read or write a line; returns the bytes through device memory."""
        key, size, written = line
        unwritten = self._unwritten.pop(key, None)
        moved = size if unwritten is None and not written else 0
        self._unwritten[key] = min((unwritten or 0) + (size if written else 0), LINE)
        if len(self._unwritten) > self._limit:
            moved += self._unwritten.popitem(last=False)[1]
        return moved


def launch_lines(kernel: str, touches: Sequence[Touch]) -> list[Line]:
    """The lines that a launch uses, in order: what each of its programs reads anew, then the rest at one pace."""
    first = [touch for touch in touches if touch.argument in _FIRST.get(kernel, ())]
    rest = [touch for touch in touches if touch.argument not in _FIRST.get(kernel, ())]
    return [line[1:] for part in (first, rest) for line in sorted(chain.from_iterable(_lines(part)))]


_Line = tuple[float, tuple[str, int], int, bool]


def _lines(touches: Sequence[Touch]) -> Iterator[list[_Line]]:
    """Lines of each range: share of the range up to its end, key, bytes touched, whether written. Overlaps once."""
    ranges: dict[tuple[str, bool], Intervals] = {}
    for touch in touches:
        ranges.setdefault((touch.block, touch.written), Intervals()).add(touch.start, touch.end)
    for (block, written), intervals in ranges.items():
        for start, end in intervals:
            edges = [start, *range((start // LINE + 1) * LINE, end, LINE), end]
            pieces = pairwise(edges)
            yield [((b - start) / (end - start), (block, a // LINE), b - a, written) for a, b in pieces]


def bytes_through_memory(plan: LaunchPlan, text_rows: int, cache_bytes: float) -> tuple[int, ...]:
    """Bytes through device memory by launch of `act`, with a cache of that nominal size.

    What is left to write at the end of the chunk counts for the last launch.
    """
    cache, moved = Cache(cache_bytes * USABLE), [0] * len(plan.programs["act"].launches)
    for index, line in chunk_lines(plan, text_rows):
        moved[index] += cache.use(line)
    moved[-1] += cache.flush()
    return tuple(moved)


def chunk_lines(plan: LaunchPlan, text_rows: int) -> Iterator[tuple[int, Line]]:
    """The lines that the launches of `act` use, each with the launch's index, in the order of their use."""
    program = plan.programs["act"]
    side, beside, rest = parts(program.side_stream, list(enumerate(program.launches)))

    def lines(launches: Sequence[tuple[int, Launch]]) -> Iterator[tuple[int, Line]]:
        for index, launch in launches:
            touches = launch_touches(launch, plan, program, text_rows)
            for line in launch_lines(plan.tasks[launch.task].task.kernel, touches):
                yield index, line

    yield from _at_one_pace(list(lines(side)), list(lines(beside)))
    yield from lines(rest)


def _at_one_pace(*parts: Sequence[tuple[int, Line]]) -> list[tuple[int, Line]]:
    """Several sequences as one, each spread over its whole length."""
    paced = [((position + 1) / len(part), item) for part in parts for position, item in enumerate(part)]
    return [item for _, item in sorted(paced, key=lambda entry: entry[0])]


def launch_touches(launch: Launch, plan: LaunchPlan, program: ProgramPlan, text_rows: int) -> list[Touch]:
    """A launch's arguments as bytes of memory, those without any left out."""
    counted = (replace(access, end=counted_end(access, text_rows)) for access in accesses(launch, plan, program))
    return [access.touch() for access in counted if access.start < access.end]
