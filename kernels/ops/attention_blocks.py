# SPDX-License-Identifier: Apache-2.0
"""What the attention kernels share: blocks of rows, the softmax accumulated over blocks of keys, and tile sizes.

Legend: M query rows, N keys, D columns of one head. Logits are in base 2: exp(x) = exp2(x log2(e)).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import triton
import triton.language as tl

from lightwam.kernels.targets import tuned_target
from lightwam.kernels.task import DType, ProductType, Tactic, Task, check_sizes, distinct

LOG2_E = math.log2(math.e)
LEAST_BLOCK = 16  # of a matmul on the tensor cores, in any direction
WIDEST_BLOCK = 256  # columns of one head that a program holds at once


def matmul_format(kernel: str, x: DType) -> ProductType:
    """The format of matmuls of operands in `x`; ValueError unless it is a float format."""
    if x not in ("f32", "f16", "bf16"):
        raise ValueError(f"{kernel}: operands in {x}; one of f32, f16, bf16 is needed")
    return x


def check_heads(kernel: str, most: int, scale: float, width: int, proprio_keys: int = 0, **sizes: int) -> None:
    """ValueError of one line unless sizes and scale are positive, and heads of `width` columns have `most` or fewer."""
    check_sizes(kernel, width=width, **sizes)
    if width > most or proprio_keys < 0 or not 0.0 < scale < math.inf:
        got = f"heads of {width}, scale {scale}, {proprio_keys} proprio keys"
        raise ValueError(f"{kernel}: {got}; heads of at most {most}, a positive scale and 0 or more keys are needed")


def block_of(size: int, most: int) -> int:
    """The smallest power of two that holds `size`, between 16 and `most`."""
    return max(LEAST_BLOCK, min(most, int(triton.next_power_of_2(size))))


def column_block(width: int) -> int:
    """Columns of a head in one matmul: 64, if they divide the head, or the head with padding."""
    return 64 if width % 64 == 0 else block_of(width, 128)


@triton.jit
def load_rows(
    x,
    rows,
    first,
    start,
    ROWS: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MASK_ROWS: tl.constexpr,
):
    """Columns [start, start + BLOCK_D) of the WIDTH ones from `first` on; 0 past them and in rows from ROWS on."""
    within = start + tl.arange(0, BLOCK_D)
    pointers = x + rows[:, None] * ROW_STRIDE + (first + within)[None, :]
    if MASK_ROWS and WIDTH % BLOCK_D != 0:
        return tl.load(pointers, mask=(rows < ROWS)[:, None] & (within < WIDTH)[None, :], other=0.0)
    elif MASK_ROWS:
        return tl.load(pointers, mask=(rows < ROWS)[:, None], other=0.0)
    elif WIDTH % BLOCK_D != 0:
        return tl.load(pointers, mask=(within < WIDTH)[None, :], other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def zero_blocks(BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, COUNT: tl.constexpr):
    """A tuple of COUNT blocks of zeros f32 [BLOCK_M, BLOCK_N].

    Sums of many columns are held as several narrow blocks: where a block has no more columns than rows, the compiler
    gives every warp whole rows of the logits, so that their softmax crosses no warps.
    """
    blocks = ()
    for index in tl.static_range(COUNT):  # noqa: B007
        blocks += (tl.zeros((BLOCK_M, BLOCK_N), tl.float32),)  # type: ignore[assignment]
    return blocks


@triton.jit
def load_columns(row, first, start, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Columns [start, start + BLOCK) of the WIDTH ones from `first` on, of one row in f32; 0 past them."""
    within = start + tl.arange(0, BLOCK)
    if WIDTH % BLOCK == 0:
        return tl.load(row + first + within).to(tl.float32)
    else:
        return tl.load(row + first + within, mask=within < WIDTH, other=0.0).to(tl.float32)


@triton.jit
def load_keys(text, keys, count, first, start, ROW: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Columns [start, start + BLOCK) of the WIDTH ones from `first` on, of text keys [N]; 0 past them. [N, BLOCK].

    Text has rows of ROW columns. Those from `count` on are not read, and 0.
    """
    within = start + tl.arange(0, BLOCK)
    mask = (keys < count)[:, None]
    if WIDTH % BLOCK != 0:
        mask = mask & (within < WIDTH)[None, :]
    return tl.load(text + keys[:, None] * ROW + (first + within)[None, :], mask=mask, other=0.0)


@triton.jit
def text_scores(
    query, key_text, key_bias, keys, count, first, scale, ROW: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr
):
    """The matmul of query [M, D] and text keys [N] times scale [M], plus their bias: logits in base 2, [M, N].

    Minus infinity from `count` on.
    """
    block = load_keys(key_text, keys, count, first, 0, ROW, WIDTH, BLOCK_D)
    scores = tl.dot(query, tl.trans(block), input_precision="ieee") * scale[:, None]
    bias = tl.load(key_bias + keys, mask=keys < count, other=float("-inf"))
    return scores + (bias * 1.4426950408889634)[None, :]


@triton.jit
def proprio_start(
    query,
    key_proprio,
    value_proprio,
    first,
    value_first,
    value_start,
    scale,
    ROW: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_ROW: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    PARTS: tl.constexpr,
):
    """The softmax of query [M, D] over KEYS proprio keys, usually one: too few for a matmul.

    scale [M] of the logits in base 2. Returns maximum, total [M], and PARTS blocks of sums of values [M, BLOCK_V].
    """
    if KEYS == 0:
        maximum = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        sums = zero_blocks(BLOCK_M, BLOCK_V, PARTS)
    else:
        wide = query.to(tl.float32)
        maximum = tl.sum(wide * load_columns(key_proprio, first, 0, WIDTH, BLOCK_D)[None, :], 1) * scale
        total = tl.full((BLOCK_M,), 1.0, tl.float32)
        sums = zero_blocks(BLOCK_M, BLOCK_V, PARTS)
        sums = add_outer(sums, total, total, value_proprio, value_first, value_start, VALUE_WIDTH, BLOCK_V, PARTS)
        for key in tl.static_range(1, KEYS):
            score = tl.sum(wide * load_columns(key_proprio + key * ROW, first, 0, WIDTH, BLOCK_D)[None, :], 1) * scale
            highest = tl.maximum(maximum, score)
            correction = tl.exp2(maximum - highest)
            weight = tl.exp2(score - highest)
            total = total * correction + weight
            value = value_proprio + key * VALUE_ROW
            sums = add_outer(sums, correction, weight, value, value_first, value_start, VALUE_WIDTH, BLOCK_V, PARTS)
            maximum = highest
    return maximum, total, sums


@triton.jit
def add_outer(
    sums, correction, weight, row, first, start, WIDTH: tl.constexpr, BLOCK_V: tl.constexpr, PARTS: tl.constexpr
):
    """correction [M] times the blocks of `sums`, plus weight [M] times the row's columns from `start` on."""
    added = ()
    for part in tl.static_range(PARTS):
        values = load_columns(row, first, start + part * BLOCK_V, WIDTH, BLOCK_V)
        block = sums[part] * correction[:, None] + weight[:, None] * values[None, :]
        added += (block,)  # type: ignore[assignment]
    return added


@triton.jit
def softmax_step(scores, maximum, total):
    """One more block of keys: scores [M, N] in base 2. A key's score of minus infinity leaves it out.

    Returns its weights [M, N], the factor [M] for what was summed before, and the new maximum and total [M].
    The first block holds a key for every row.
    """
    highest = tl.maximum(maximum, tl.max(scores, 1))
    correction = tl.exp2(maximum - highest)
    weights = tl.exp2(scores - highest[:, None])
    return weights, correction, highest, total * correction + tl.sum(weights, 1)


# (BLOCK_M, BLOCK_N, warps, stages), best guess first: without spills in the full-size policies.
Choice = tuple[int, int, int, int]
_MMA: tuple[Choice, ...] = ((64, 64, 4, 2), (128, 64, 8, 2), (64, 32, 4, 2), (32, 64, 4, 2))
_WARP_GROUP: tuple[Choice, ...] = ((64, 64, 4, 2), (64, 32, 4, 3), (128, 64, 8, 2))
_WIDE: tuple[Choice, ...] = ((64, 32, 4, 2), (64, 32, 4, 1))  # heads of many columns
_ROTATED_SM_120: tuple[Choice, ...] = ((64, 32, 4, 1), (32, 32, 4, 2))
_F32: tuple[Choice, ...] = ((32, 32, 4, 1), (16, 32, 4, 1), (16, 16, 4, 1))  # these matmuls use no tensor cores


def flash_choices(
    product: ProductType, target: str, *, wide: bool = False, rotated: bool = False
) -> tuple[Choice, ...]:
    """Blocks for attention on a target. wide: heads of over 128 columns; rotated: keys are rotated on load."""
    if target == "interpreter":
        return ((512, 128, 4, 1),)
    if product == "f32":
        return _F32
    family = tuned_target("attention", target).tactics
    if family == "warp_group":
        return _WARP_GROUP
    if wide:
        return _WIDE
    return _ROTATED_SM_120 if rotated and family == "mma_sm_120" else _MMA


def fit_blocks(choices: tuple[Choice, ...], rows: int, keys: int) -> list[Choice]:
    """The choices without blocks larger than `rows` queries and `keys` keys need, each once."""
    fitted = ((block_of(rows, m), block_of(keys, n), warps, stages) for m, n, warps, stages in choices)
    return list(dict.fromkeys(fitted))


def attention_tactics(choices: tuple[Choice, ...], rows: int, keys: int) -> list[Tactic]:
    """Blocks of BLOCK_M query rows and BLOCK_N keys, for `rows` queries and `keys` keys."""
    fitted = fit_blocks(choices, rows, keys)
    return [Tactic({"BLOCK_M": m, "BLOCK_N": n}, warps, stages) for m, n, warps, stages in fitted]


def matmul_tactics(choices: Iterable[tuple[int, int, int, int, int]], m: int, n: int, k: int) -> list[Tactic]:
    """(BLOCK_M, BLOCK_N, BLOCK_K, warps, stages) for a matmul [m, k] [k, n]; no block larger than it needs."""
    return distinct(
        Tactic({"BLOCK_M": block_of(m, most_m), "BLOCK_N": block_of(n, most_n), "BLOCK_K": block_of(k, most_k)}, *more)
        for most_m, most_n, most_k, *more in choices
    )


def weights_tolerance(task: Task, roundings: int) -> float:
    """Error of an attention beside its result's rounding, as a part of the largest of y.

    Half a step of the matmuls' format for the weights, and as much for every operand rounded before the logits.
    """
    return max(5e-6, roundings * {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-9}[task.product_type])
