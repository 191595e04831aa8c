# SPDX-License-Identifier: Apache-2.0
"""Attention to few keys, each with its finished output (`cross_attention_folded`, engine-format 4).

Value and output projection of every (key, head) are one vector of n numbers, so y is one matmul: the weights
[tokens, heads * keys] by these vectors. A program makes BLOCK_M rows of BLOCK_N columns: head by head the weights of
all keys, then their matmul. The first BLOCK_K keys, usually all, are read once; what follows is read for the weights'
total and again for the matmul. Text keys past the number in use, which lies in device memory, are never read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops import cross_attention
from lightwam.kernels.ops.attention_blocks import (
    LOG2_E,
    block_of,
    check_heads,
    load_columns,
    load_keys,
    load_rows,
    matmul_format,
    proprio_start,
    softmax_step,
    text_scores,
    weights_tolerance,
    zero_blocks,
)
from lightwam.kernels.ops.device import combine_squares, inverse_root, store_statistics
from lightwam.kernels.ops.reference import STATISTICS_WIDTH, Statistics, row_statistics
from lightwam.kernels.ops.reference import partials as partials_of
from lightwam.kernels.targets import TacticFamily, tuned_target
from lightwam.kernels.task import Argument, DType, ProductType, Tactic, Task, distinct, given


@triton.jit
def kernel(
    q,
    q_statistics,
    q_weight,
    key_text,
    output_text,
    key_bias,
    key_count,
    key_proprio,
    output_proprio,
    bias,
    residual,
    y,
    statistics,
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    N: tl.constexpr,
    KEYS: tl.constexpr,
    PROPRIO_KEYS: tl.constexpr,
    SCALE: tl.constexpr,  # in base 2
    EPS: tl.constexpr,
    PARTIALS: tl.constexpr,
    STATISTICS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PARTS: tl.constexpr,
):
    ROW: tl.constexpr = HEADS * WIDTH
    OUTPUTS: tl.constexpr = HEADS * N
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * (PARTS * BLOCK_N)
    count = tl.minimum(tl.load(key_count), KEYS)
    scale = tl.full((BLOCK_M,), SCALE, tl.float32)
    if q_statistics is not None:
        # The row's norm is left out of q and put on its logits.
        squares = combine_squares(q_statistics, tl.minimum(rows, TOKENS - 1), 2 * PARTIALS, PARTIALS)
        scale = scale * inverse_root(squares / ROW + EPS)
    sums = zero_blocks(BLOCK_M, BLOCK_N, PARTS)
    for head in range(HEADS):
        query = load_rows(q, rows, head * WIDTH, 0, TOKENS, ROW, WIDTH, BLOCK_D, True)
        if q_weight is not None:
            weight = load_columns(q_weight, head * WIDTH, 0, WIDTH, BLOCK_D)
            query = (query.to(tl.float32) * weight[None, :]).to(query.dtype)
        maximum, total, head_sums = proprio_start(
            query, key_proprio, output_proprio, head * WIDTH, head * N, column, scale,
            ROW, WIDTH, OUTPUTS, N, PROPRIO_KEYS, BLOCK_M, BLOCK_D, BLOCK_N, PARTS,
        )  # fmt: skip
        for start in range(0, count, BLOCK_K):
            keys = start + tl.arange(0, BLOCK_K)
            scores = text_scores(query, key_text, key_bias, keys, count, head * WIDTH, scale, ROW, WIDTH, BLOCK_D)
            weights, correction, maximum, total = softmax_step(scores, maximum, total)
            weights = weights.to(query.dtype)
            added = ()
            for part in tl.static_range(PARTS):
                first = column + part * BLOCK_N
                outputs = load_keys(output_text, keys, count, head * N, first, OUTPUTS, N, BLOCK_N)
                part_sums = head_sums[part] * correction[:, None]
                added += (tl.dot(weights, outputs, part_sums, input_precision="ieee"),)  # type: ignore[assignment]
            head_sums = added
        inverse = 1.0 / total
        added = ()
        for part in tl.static_range(PARTS):
            added += (sums[part] + head_sums[part] * inverse[:, None],)  # type: ignore[assignment]
        sums = added
    for part in tl.static_range(PARTS):
        first = column + part * BLOCK_N
        columns = first + tl.arange(0, BLOCK_N)
        value = sums[part]
        if bias is not None:
            value += tl.load(bias + columns, mask=columns < N, other=0.0)[None, :]
        offsets = rows[:, None] * N + columns[None, :]
        mask = (rows < TOKENS)[:, None] & (columns < N)[None, :]
        if residual is not None:
            value += tl.load(residual + offsets, mask=mask, other=0.0).to(tl.float32)
        stored = value.to(y.dtype.element_ty)
        tl.store(y + offsets, stored, mask=mask)
        if statistics is not None:
            store_statistics(statistics, stored.to(tl.float32), rows, first, rows < TOKENS, N, STATISTICS, True)


def task(
    tokens: int,
    heads: int,
    width: int,
    n: int,
    keys: int,
    proprio_keys: int,
    *,
    x: DType,
    y: DType,
    scale: float,
    bias: bool = False,
    residual: DType | None = None,
    rms: bool = False,
    eps: float = 0.0,
    partials: int = 0,
    statistics: Statistics | None = None,
) -> Task:
    """y [tokens, n] = sum over heads h and keys k of p[h, s, k] output[k, h * n ...], plus bias [n] and residual.

    p is the softmax of `cross_attention`, over key_count text keys and all proprio keys. q [tokens, heads * width],
    key_text [keys, heads * width], output_text [keys, heads * n] and their proprio_keys rows are in format `x`.
    rms: q is divided by the root of its row's mean square (+ eps), whose sum comes as q_statistics "squares",
    `partials` of 64 columns each, and multiplied by q_weight f32 [heads * width].
    statistics: of every 64 columns of y as stored.
    """
    row = heads * width
    sizes = {"tokens": tokens, "heads": heads, "n": n, "keys": keys}
    check_heads("cross_attention_folded", cross_attention.MAX_WIDTH, scale, width, proprio_keys, **sizes)
    if rms and partials != partials_of(row):
        raise ValueError(f"cross_attention_folded: {partials} partial squares; all {row} columns are needed")
    arguments = given(
        Argument("q", "r", x, (tokens, row)),
        Argument("q_statistics", "r", "f32", (tokens, partials, 2)) if rms else None,
        Argument("q_weight", "r", "f32", (row,)) if rms else None,
        Argument("key_text", "r", x, (keys, row)),
        Argument("output_text", "r", x, (keys, heads * n)),
        Argument("key_bias", "r", "f32", (keys,)),
        Argument("key_count", "r", "i32", (1,)),
        Argument("key_proprio", "r", x, (proprio_keys, row)) if proprio_keys else None,
        Argument("output_proprio", "r", x, (proprio_keys, heads * n)) if proprio_keys else None,
        Argument("bias", "r", "f32", (n,)) if bias else None,
        Argument("residual", "r", residual, (tokens, n)) if residual else None,
        Argument("y", "w", y, (tokens, n)),
        Argument("statistics", "w", "f32", (tokens, partials_of(n), 2)) if statistics else None,
    )
    constants = {
        "TOKENS": tokens,
        "HEADS": heads,
        "WIDTH": width,
        "N": n,
        "KEYS": keys,
        "PROPRIO_KEYS": proprio_keys,
        "SCALE": scale * LOG2_E,
        "EPS": eps,
        "PARTIALS": partials if rms else 0,
        "STATISTICS": statistics,
        "BLOCK_D": block_of(width, cross_attention.MAX_WIDTH),
    }
    flops = 2 * tokens * (keys + proprio_keys) * (row + heads * n)
    product = matmul_format("cross_attention_folded", x)
    return Task("cross_attention_folded", constants, arguments, flops, product)


# (BLOCK_M, BLOCK_N, PARTS, BLOCK_K, warps, stages), best guess first: without spills in the full-size policies.
_Blocks = tuple[int, int, int, int, int, int]
_BLOCKS: Mapping[TacticFamily, tuple[_Blocks, ...]] = {
    "mma": ((64, 64, 2, 16, 4, 1), (64, 64, 1, 32, 4, 1), (64, 64, 1, 16, 4, 1)),
    "warp_group": ((64, 64, 2, 32, 4, 1), (128, 64, 2, 32, 8, 1), (64, 64, 2, 16, 4, 1)),
    "mma_sm_120": ((64, 64, 1, 32, 4, 1), (64, 64, 1, 16, 4, 1)),
}
_F32 = ((32, 32, 1, 16, 4, 1), (16, 32, 1, 16, 4, 1), (32, 32, 1, 16, 8, 1))


def _choices(product: ProductType, target: str) -> tuple[_Blocks, ...]:
    if target == "interpreter":
        return ((512, 2048, 1, 32, 4, 1),)
    if product == "f32":
        return _F32
    return _BLOCKS[tuned_target("cross_attention_folded", target).tactics]


def tactics(task: Task, target: str) -> list[Tactic]:
    tokens, n = task.integer("TOKENS"), task.integer("N")
    keys = task.integer("KEYS") + task.integer("PROPRIO_KEYS")
    found = []
    for most_m, most_n, most_parts, most_k, warps, stages in _choices(task.product_type, target):
        # Statistics are of 64 columns.
        block_n = max(block_of(n, most_n), 16 if task.constants["STATISTICS"] is None else STATISTICS_WIDTH)
        parts = math.gcd(most_parts, triton.cdiv(n, block_n))  # no program has a block past the last
        blocks = {"BLOCK_M": block_of(tokens, most_m), "BLOCK_N": block_n, "BLOCK_K": block_of(keys, most_k)}
        found.append(Tactic({**blocks, "PARTS": parts}, warps, stages))
    return distinct(found)


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    tokens, n = task.integer("TOKENS"), task.integer("N")
    block_m, block_n, parts = (tactic.integer(name) for name in ("BLOCK_M", "BLOCK_N", "PARTS"))
    return (triton.cdiv(tokens, block_m), triton.cdiv(n, block_n * parts), 1)


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    q, row = arguments["q"], task.integer("HEADS") * task.integer("WIDTH")
    if "q_statistics" in arguments:
        mean_square = arguments["q_statistics"][:, :, 0].sum(1, keepdims=True) / row
        q = q / np.sqrt(mean_square + task.real("EPS")) * arguments["q_weight"]
    outputs = arguments["output_text"][: int(arguments["key_count"][0])]
    if "output_proprio" in arguments:
        outputs = np.concatenate([outputs, arguments["output_proprio"]])
    weights = cross_attention.key_weights(task, arguments, q)
    y = np.einsum("hsk,khn->sn", weights, outputs.reshape(len(outputs), len(weights), -1))
    y = y + arguments.get("bias", 0.0) + arguments.get("residual", 0.0)
    kind = task.constants["STATISTICS"]
    return {"y": y} if kind is None else {"y": y, "statistics": row_statistics(y, str(kind))}


def tolerance(task: Task) -> float:
    """Statistics are of rounded numbers, in f32."""
    statistics = task.constants["STATISTICS"] is not None
    return weights_tolerance(task, (2 if task.constants["PARTIALS"] else 1) + (2 if statistics else 0))


def example(task: Task, generator: np.random.Generator) -> dict[str, Array]:
    """As of `cross_attention`, and squares that fit rows of ordinary size."""
    examples = cross_attention.example(task, generator)
    if "q_statistics" in task.argument_names:
        examples["q_statistics"] = generator.uniform(40.0, 90.0, task.shape("q_statistics"))
    return examples


CASES = [
    task(37, 3, 24, 72, 9, 1, x="f32", y="f32", scale=0.2, bias=True, residual="f32", statistics="moments"),
    task(20, 4, 20, 80, 40, 3, x="f32", y="bf16", scale=0.3),
    task(64, 2, 64, 64, 70, 1, x="f16", y="f16", scale=0.125, residual="f16"),
    task(
        70, 2, 128, 192, 33, 2, x="bf16", y="f32", scale=0.09, bias=True, residual="f32", rms=True, eps=1e-6,
        partials=4, statistics="moments",
    ),
    task(
        17, 1, 48, 100, 16, 1, x="bf16", y="bf16", scale=0.1, rms=True, eps=1e-6, partials=1,
        statistics="range",
    ),
    task(9, 2, 16, 130, 5, 0, x="bf16", y="f32", scale=0.25, bias=True, statistics="squares"),
]  # fmt: skip
