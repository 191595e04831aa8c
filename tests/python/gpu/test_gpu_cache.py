# SPDX-License-Identifier: Apache-2.0
"""The cache model against numbers worked out by hand."""

from __future__ import annotations

from helpers.gpu_graphs import full_size_costs, full_size_graph, full_size_plan
from lightwam.engine.costs import graph_costs
from lightwam.gpu.cache import LINE, USABLE, Cache, bytes_through_memory, chunk_lines, launch_lines
from lightwam.gpu.plan import Address, Buffer, Launch, LaunchPlan, PlannedTask, ProgramPlan, SideStream, Touch
from lightwam.kernels.task import Argument, Task


def _read(start: int, end: int, argument: str = "x", block: str = "arena") -> Touch:
    """Lines [start, end) of a block."""
    return Touch(argument, block, start * LINE, end * LINE, False)


def _run(cache: Cache, kernel: str, touches: list[Touch]) -> int:
    """Bytes through device memory while a launch runs: reads that miss, and older writes that must leave."""
    return sum(cache.use(line) for line in launch_lines(kernel, touches))


def _write(start: int, end: int) -> Touch:
    return Touch("y", "arena", start * LINE, end * LINE, True)


def test_what_was_just_written_is_read_from_the_cache() -> None:
    cache = Cache(8 * LINE)
    assert _run(cache, "row_norm", [_read(0, 2), _write(2, 4)]) == 2 * LINE  # two lines come, two stay unwritten
    assert _run(cache, "row_norm", [_read(2, 4), _write(4, 6)]) == 0
    assert _run(cache, "row_norm", [_read(0, 2), _read(6, 8)]) == 2 * LINE  # the first two lines are still there
    assert cache.flush() == 4 * LINE


def test_the_line_used_longest_ago_leaves_and_is_written_if_it_must() -> None:
    cache = Cache(4 * LINE)
    _run(cache, "row_norm", [_write(0, 2)])
    _run(cache, "row_norm", [_read(10, 12)])  # full: 0, 1 (unwritten), 10, 11
    assert _run(cache, "row_norm", [_read(0, 1)]) == 0  # now 1 is the oldest
    assert _run(cache, "row_norm", [_read(20, 22)]) == 3 * LINE  # 20 drives out 1 (written), 21 drives out 10
    assert _run(cache, "row_norm", [_read(0, 1), _read(11, 12)]) == 0
    assert cache.flush() == LINE


def test_written_again_while_in_the_cache_is_written_once() -> None:
    cache = Cache(4 * LINE)
    for _ in range(3):
        assert _run(cache, "row_norm", [_write(0, 2)]) == 0
    assert cache.flush() == 2 * LINE


def test_a_range_longer_than_the_cache_leaves_nothing_for_its_next_reader() -> None:
    cache = Cache(4 * LINE)
    assert _run(cache, "row_norm", [_read(0, 5)]) == 5 * LINE
    assert _run(cache, "row_norm", [_read(0, 5)]) == 5 * LINE


def test_long_reads_and_writes_go_at_one_pace_and_the_rows_of_a_matmul_first() -> None:
    """x (1 line) waits in the cache. 4 lines of weights pass with 2 of y: 0, w0, w1 y0, w2, w3 y1 through 3 lines."""
    weights = _read(0, 4, "weight", "weights")
    cache = Cache(3 * LINE)
    _run(cache, "row_norm", [_read(0, 1)])
    assert _run(cache, "matmul", [_read(0, 1), weights, _write(8, 10)]) == (4 + 1) * LINE  # weights, y0 driven out
    assert _run(cache, "row_norm", [_read(9, 10)]) == 0  # y1 is there
    assert _run(cache, "row_norm", [_read(8, 9)]) == LINE


def test_ranges_that_overlap_are_one_and_parts_of_lines_count_as_they_are() -> None:
    cache = Cache(8 * LINE)
    touches = [Touch("q", "arena", 256, LINE + 512, False), Touch("k", "arena", 512, LINE + 768, False)]
    assert _run(cache, "self_attention", touches) == LINE + 512
    assert _run(cache, "row_norm", [Touch("y", "output", 0, 100, True)]) == 0
    assert cache.flush() == 100


def test_a_side_stream_goes_through_the_cache_beside_other_launches() -> None:
    """Three lines fit. 2 are written, read and read again; the 4 that pass beside them drive them out."""
    row, long = Argument("x", "r", "i8", (2 * LINE,)), Argument("x", "r", "i8", (4 * LINE,))
    written = Argument("y", "w", "i8", (2 * LINE,))
    tasks = [Task("row_norm", {}, arguments, 0, "none") for arguments in ((long,), (written,), (row,), (row,))]
    buffers = (Buffer("state", "input", 0, 4 * LINE), Buffer("y", "arena", 0, 2 * LINE))
    launches = [Launch(str(i), "backbone", i, (Address(min(i, 1), 0),)) for i in range(4)]
    for side, moved in ((None, [4, 0, 0, 2]), (SideStream(1, 3), [6, 0, 2, 0])):
        program = ProgramPlan(2 * LINE, buffers, tuple(launches), side)
        plan = LaunchPlan(0, {}, tuple(PlannedTask("", task) for task in tasks), {"act": program})
        assert [size / LINE for size in bytes_through_memory(plan, 1, 3 * LINE / USABLE)] == moved


def test_a_chunk_moves_less_with_a_larger_cache_and_all_without() -> None:
    graph, plan, costs = (of("libero", "bf16") for of in (full_size_graph, full_size_plan, full_size_costs))
    caches, moved = [Cache(size * USABLE) for size in (0, 32 << 20, 1 << 40)], [0, 0, 0]
    for _, line in chunk_lines(plan, costs.text_rows):  # once, for all caches
        moved = [before + cache.use(line) for before, cache in zip(moved, caches, strict=True)]
    none, thor, huge = (before + cache.flush() for before, cache in zip(moved, caches, strict=True))
    assert costs.num_bytes <= none <= 1.02 * costs.num_bytes  # a matmul's x that is its residual too is read twice
    assert huge < thor < none
    assert huge > graph_costs(graph, costs.text_rows).constant_bytes
