# SPDX-License-Identifier: Apache-2.0
"""Self-attention of a token sequence: softmax(scale q k^T) v of every head, the softmax accumulated block by block.

`self_attention` of engine-format.md, section 4; with norm and rotation of q and k on load, `rms_norm_rope` too.
Heads are taken in chunks of BLOCK_D columns: narrow matmuls keep every row in one warp, so its softmax needs no other.
A program makes BLOCK_M rows of VALUES chunks of one head: a wide head is several programs, each with all its logits.
The last keys are a smaller block, so few keys are padding. For training: batches, fewer queries than keys, and every
query's logsumexp, from which `self_attention_backward_query` and `self_attention_backward_key` make the gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops.attention_blocks import (
    LOG2_E,
    block_of,
    check_heads,
    column_block,
    fit_blocks,
    flash_choices,
    load_rows,
    matmul_format,
    softmax_step,
    weights_tolerance,
    zero_blocks,
)
from lightwam.kernels.ops.device import arguments_type, store_statistics
from lightwam.kernels.ops.reference import STATISTICS_WIDTH, row_statistics
from lightwam.kernels.ops.reference import partials as partials_of
from lightwam.kernels.ops.rms_norm_rope import rotate_pairs
from lightwam.kernels.ops.rope_on_load import prepared_rows, reciprocal_rms
from lightwam.kernels.task import Argument, DType, Tactic, Task

MAX_WIDTH = 512


@triton.jit
def _step(a, start, queries, maximum, total, accumulators, first, value_start, BLOCK: tl.constexpr, LAST: tl.constexpr):
    """`softmax_step` with keys [start, start + BLOCK), of which some lie past the end in the LAST block."""
    rows = start + tl.arange(0, BLOCK)
    scale = 1.0
    if a.ROPE:
        scale = reciprocal_rms(a, a.k_statistics, rows, a.TOKENS)
    scores = tl.zeros((a.BLOCK_M, BLOCK), tl.float32)
    sums = ()
    for chunk in tl.static_range(a.CHUNKS):
        keys = prepared_rows(a, a.k, scale, rows, first, chunk * a.BLOCK_D, a.k_weight, a.TOKENS, BLOCK, LAST)
        scores = tl.dot(queries[chunk], tl.trans(keys), scores, input_precision="ieee")
    scores = scores * a.SCALE
    if LAST:
        scores = tl.where((rows < a.TOKENS)[None, :], scores, float("-inf"))
    weights, correction, maximum, total = softmax_step(scores, maximum, total)
    weights = weights.to(a.v.dtype.element_ty)
    for chunk in tl.static_range(a.VALUES):
        values = load_rows(
            a.v, rows, first, value_start + chunk * a.BLOCK_D, a.TOKENS, a.ROW_STRIDE, a.WIDTH, a.BLOCK_D, LAST
        )
        part = tl.dot(weights, values, accumulators[chunk] * correction[:, None], input_precision="ieee")
        sums += (part,)  # type: ignore[assignment]
    return maximum, total, sums


@triton.jit
def _attend(a, first, value_start):
    """BLOCK_M rows of a head, which starts at column `first`, and of it VALUES chunks from `value_start` on.

    a: the arguments of `kernel`, with pointers to the program's batch.
    """
    FULL: tl.constexpr = a.TOKENS // a.BLOCK_N * a.BLOCK_N
    rows = tl.program_id(0) * a.BLOCK_M + tl.arange(0, a.BLOCK_M)
    scale = 1.0
    if a.ROPE:
        scale = reciprocal_rms(a, a.q_statistics, rows, a.QUERIES)
    queries = ()
    for chunk in tl.static_range(a.CHUNKS):
        query = prepared_rows(a, a.q, scale, rows, first, chunk * a.BLOCK_D, a.q_weight, a.QUERIES, a.BLOCK_M, True)
        queries += (query,)  # type: ignore[assignment]
    maximum = tl.full((a.BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((a.BLOCK_M,), tl.float32)
    accumulators = zero_blocks(a.BLOCK_M, a.BLOCK_D, a.VALUES)
    for start in range(0, FULL, a.BLOCK_N):
        maximum, total, accumulators = _step(
            a, start, queries, maximum, total, accumulators, first, value_start, a.BLOCK_N, False
        )
    if FULL < a.TOKENS:
        maximum, total, accumulators = _step(
            a, FULL, queries, maximum, total, accumulators, first, value_start, a.TAIL_N, True
        )
    for chunk in tl.static_range(a.VALUES):
        start = value_start + chunk * a.BLOCK_D
        stored = (accumulators[chunk] / total[:, None]).to(a.y.dtype.element_ty)
        columns = start + tl.arange(0, a.BLOCK_D)
        mask = (rows < a.QUERIES)[:, None] & (columns < a.WIDTH)[None, :]
        tl.store(a.y + rows[:, None] * a.ROW + (first + columns)[None, :], stored, mask=mask)
        if a.statistics is not None:
            store_statistics(
                a.statistics, stored.to(tl.float32), rows, first + start, rows < a.QUERIES, a.ROW, "range", True
            )
    if a.logsumexp is not None and value_start == 0:
        head = tl.program_id(2) * (a.ROW // a.WIDTH) + first // a.WIDTH
        tl.store(a.logsumexp + head * a.QUERIES + rows, maximum + tl.log2(total), mask=rows < a.QUERIES)


@triton.jit
def kernel(
    q,
    k,
    v,
    q_statistics,
    k_statistics,
    q_weight,
    k_weight,
    cos,
    sin,
    y,
    statistics,
    logsumexp,
    TOKENS: tl.constexpr,
    QUERIES: tl.constexpr,
    WIDTH: tl.constexpr,
    ROW: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    SCALE: tl.constexpr,  # in base 2
    BATCHED: tl.constexpr,
    ROPE: tl.constexpr,
    EPS: tl.constexpr,
    PARTIALS: tl.constexpr,
    STATISTICS_STRIDE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    CHUNKS: tl.constexpr,
    VALUES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TAIL_N: tl.constexpr,
):
    first = tl.program_id(1) // (CHUNKS // VALUES) * WIDTH
    value_start = tl.program_id(1) % (CHUNKS // VALUES) * (VALUES * BLOCK_D)
    if BATCHED:
        batch = tl.program_id(2).to(tl.int64)
        q += batch * (QUERIES * ROW)
        k += batch * (TOKENS * ROW)
        v += batch * (TOKENS * ROW)
        y += batch * (QUERIES * ROW)
    _attend(
        _Arguments(
            q, k, v, q_statistics, k_statistics, q_weight, k_weight, cos, sin, y, statistics, logsumexp,
            TOKENS, QUERIES, WIDTH, ROW, ROW_STRIDE, SCALE, BATCHED, ROPE, EPS, PARTIALS, STATISTICS_STRIDE,
            BLOCK_D, CHUNKS, VALUES, BLOCK_M, BLOCK_N, TAIL_N,
        ),
        first,
        value_start,
    )  # fmt: skip


_Arguments = arguments_type(kernel)


def task(
    tokens: int,
    heads: int,
    width: int,
    *,
    x: DType,
    y: DType,
    scale: float,
    row_stride: int | None = None,
    rope: bool = False,
    eps: float = 0.0,
    partials: int = 0,
    statistics_row_stride: int | None = None,
    statistics: Literal["range"] | None = None,
    batch: int = 1,
    queries: int | None = None,
    logsumexp: bool = False,
) -> Task:
    """y [tokens, heads * width] of q, k, v in format `x`, whose rows start `row_stride` elements apart (default: row).

    rope: q and k [tokens, heads * width] are divided by the root of their row's mean square (+ eps), multiplied by
    q_weight and k_weight [heads * width], and the pairs (2i, 2i+1) of a head turned by cos, sin [tokens, width / 2].
    The row's squares come as `partials` sums of 64 columns each: q_statistics, k_statistics "squares", whose rows
    lie `statistics_row_stride` f32 elements apart (default: 2 * partials).
    statistics "range": of what is stored, for every 64 columns; so the width is a multiple of 64.
    batch, queries: q and y are [batch, queries, row], k and v [batch, tokens, row], without rope, statistics, stride.
    logsumexp: also f32 [batch, heads, queries], the logarithm in base 2 of the sum of a query's exponentials.
    """
    row = heads * width
    stride = row if row_stride is None else row_stride
    statistics_stride = 2 * partials if statistics_row_stride is None else statistics_row_stride
    check_heads("self_attention", MAX_WIDTH, scale, width, tokens=tokens, heads=heads)
    if stride < row:
        raise ValueError(f"self_attention: {heads} heads of {width}, rows {stride} apart; heads must fit the row")
    if rope and (width % 2 or partials != partials_of(row) or statistics_stride < 2 * partials):
        raise ValueError(
            f"self_attention: rope of heads of {width}, {partials} partial squares, rows {statistics_stride} apart; "
            f"an even width and partials for all {row} columns are needed"
        )
    if statistics is not None and width % STATISTICS_WIDTH:
        raise ValueError(f"self_attention: statistics of heads of {width}; a multiple of {STATISTICS_WIDTH} is needed")
    many = tokens if queries is None else queries
    batched = batch != 1 or many != tokens
    if min(batch, many) < 1 or (batched and (rope or statistics is not None or stride != row)):
        options = f"rope {rope}, statistics {statistics}, rows {stride} apart"
        raise ValueError(f"self_attention: {batch} x {many} queries, {options}; batches have plain rows only")
    arguments = [
        Argument(name, "r", x, _rows_shape(batch, rows, row, stride))
        for name, rows in (("q", many), ("k", tokens), ("v", tokens))
    ]
    if rope:
        whole = statistics_stride == 2 * partials
        squares = (tokens, partials, 2) if whole else ((tokens - 1) * statistics_stride + 2 * partials,)
        arguments += [Argument(name, "r", "f32", squares) for name in ("q_statistics", "k_statistics")]
        arguments += [Argument(name, "r", "f32", (row,)) for name in ("q_weight", "k_weight")]
        arguments += [Argument(name, "r", "f32", (tokens, width // 2)) for name in ("cos", "sin")]
    arguments.append(Argument("y", "w", y, _rows_shape(batch, many, row, row)))
    if statistics is not None:
        arguments.append(Argument("statistics", "w", "f32", (tokens, row // STATISTICS_WIDTH, 2)))
    if logsumexp:
        arguments.append(Argument("logsumexp", "w", "f32", (batch, heads, many)))
    constants = {
        "TOKENS": tokens,
        "QUERIES": many,
        "WIDTH": width,
        "ROW": row,
        "ROW_STRIDE": stride,
        "SCALE": scale * LOG2_E,
        "BATCHED": batched,
        "ROPE": rope,
        "EPS": eps,
        "PARTIALS": partials,
        "STATISTICS_STRIDE": statistics_stride,
        "BLOCK_D": column_block(width),
        "CHUNKS": triton.cdiv(width, column_block(width)),
        "VALUES": 2 if triton.cdiv(width, column_block(width)) % 2 == 0 else 1,
    }
    return Task(
        "self_attention",
        constants,
        tuple(arguments),
        flops=4 * batch * many * tokens * row,
        product_type=matmul_format("self_attention", x),
    )


def _rows_shape(batch: int, rows: int, row: int, stride: int) -> tuple[int, ...]:
    if stride != row:
        return ((rows - 1) * stride + row,)
    return (rows, row) if batch == 1 else (batch, rows, row)


def tactics(task: Task, target: str) -> list[Tactic]:
    tokens, wide = task.integer("TOKENS"), task.integer("CHUNKS") > 2
    choices = flash_choices(task.product_type, target, wide=wide, rotated=bool(task.constants["ROPE"]))
    return [
        Tactic({"BLOCK_M": m, "BLOCK_N": n, "TAIL_N": block_of(max(tokens % n, 1), n)}, warps, stages)
        for m, n, warps, stages in fit_blocks(choices, task.integer("QUERIES"), tokens)
    ]


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    numbers = ("QUERIES", "ROW", "WIDTH", "CHUNKS", "VALUES")
    queries, row, width, chunks, values = (task.integer(name) for name in numbers)
    batch = _batch(task)
    return (triton.cdiv(queries, tactic.integer("BLOCK_M")), row // width * (chunks // values), batch)


def _batch(task: Task) -> int:
    shape = task.shape("q")
    return shape[0] if len(shape) == 3 else 1


def _rows(x: Array, tokens: int, stride: int, row: int) -> Array:
    """[tokens, row] of a flat array whose rows lie `stride` apart."""
    flat = np.concatenate([x.reshape(-1), np.zeros(stride)])[: tokens * stride]
    return flat.reshape(tokens, stride)[:, :row]


def _normal_rotated(task: Task, x: Array, arguments: Mapping[str, Array], name: str) -> Array:
    """q or k [tokens, row], normalised and rotated."""
    numbers = ("TOKENS", "ROW", "WIDTH", "PARTIALS", "STATISTICS_STRIDE")
    tokens, row, width, partials, stride = (task.integer(constant) for constant in numbers)
    squares = _rows(arguments[f"{name}_statistics"], tokens, stride, 2 * partials)[:, ::2].sum(1)
    normal = x / np.sqrt(squares / row + task.real("EPS"))[:, None] * arguments[f"{name}_weight"]
    return rotate_pairs(normal, arguments["cos"], arguments["sin"], width)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    tokens, row, width, stride = (task.integer(name) for name in ("TOKENS", "ROW", "WIDTH", "ROW_STRIDE"))
    q, k, v = (arguments[name] for name in ("q", "k", "v"))
    if not task.constants["BATCHED"]:
        q, k, v = (_rows(x, tokens, stride, row) for x in (q, k, v))
    if task.constants["ROPE"]:
        q, k = _normal_rotated(task, q, arguments, "q"), _normal_rotated(task, k, arguments, "k")
    batch, y_shape = _batch(task), task.shape("y")
    q, k, v = (x.reshape(batch, -1, row // width, width).transpose(0, 2, 1, 3) for x in (q, k, v))
    logits = q @ k.transpose(0, 1, 3, 2) * (task.real("SCALE") / LOG2_E)
    highest = logits.max(-1, keepdims=True)
    weights = np.exp(logits - highest)
    total = weights.sum(-1, keepdims=True)
    y = (weights @ v / total).transpose(0, 2, 1, 3).reshape(y_shape)
    made = {"y": y}
    if "statistics" in task.argument_names:
        made["statistics"] = row_statistics(y, "range")
    if "logsumexp" in task.argument_names:
        made["logsumexp"] = (highest + np.log(total))[..., 0] * LOG2_E
    return made


def tolerance(task: Task) -> float:
    """Statistics are of rounded numbers, in f32."""
    statistics = "statistics" in task.argument_names
    return weights_tolerance(task, (3 if task.constants["ROPE"] else 1) + (1 if statistics else 0))


def example(task: Task, generator: np.random.Generator) -> dict[str, Array]:
    """Statistics that fit rows of ordinary size, angles instead of any numbers."""
    if not task.constants["ROPE"]:
        return {}
    statistics = {name: generator.uniform(40.0, 90.0, task.shape(name)) for name in ("q_statistics", "k_statistics")}
    angles = generator.uniform(0.0, 2.0 * np.pi, task.shape("cos"))
    return {**statistics, "cos": np.cos(angles), "sin": np.sin(angles)}


CASES = [
    task(150, 1, 16, x="f32", y="f32", scale=0.25),
    task(300, 1, 64, x="bf16", y="bf16", scale=0.125, statistics="range"),
    task(37, 3, 24, x="f32", y="f32", scale=24**-0.5),
    task(64, 2, 32, x="f16", y="f16", scale=0.2),
    task(40, 2, 64, x="bf16", y="bf16", scale=0.125, row_stride=400),
    task(33, 1, 384, x="bf16", y="f32", scale=0.05, statistics="range"),
    task(
        50, 2, 128, x="bf16", y="bf16", scale=0.09, row_stride=768, rope=True, eps=1e-6, partials=4,
        statistics_row_stride=24, statistics="range",
    ),
    task(21, 4, 20, x="f32", y="f32", scale=0.2, rope=True, eps=1e-6, partials=2),
    task(17, 1, 80, x="f16", y="f32", scale=0.1, rope=True, eps=1e-2, partials=2, statistics=None),
    task(40, 2, 24, x="f32", y="f32", scale=0.2, batch=2, queries=19, logsumexp=True),
    task(70, 1, 256, x="bf16", y="bf16", scale=0.06, batch=3, logsumexp=True),
]  # fmt: skip
