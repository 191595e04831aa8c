# SPDX-License-Identifier: Apache-2.0
"""Attention of tokens to the keys of an instruction and of the robot's state (`cross_attention`, engine-format 4).

A program makes BLOCK_M rows of one head. It reads the text keys in use only: their number lies in device memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import triton
import triton.language as tl

from lightwam.kernels.formats import Array
from lightwam.kernels.ops.attention_blocks import (
    LOG2_E,
    attention_tactics,
    block_of,
    check_heads,
    flash_choices,
    load_keys,
    load_rows,
    matmul_format,
    proprio_start,
    softmax_step,
    text_scores,
    weights_tolerance,
)
from lightwam.kernels.task import Argument, DType, Tactic, Task, given

MAX_WIDTH = 256


@triton.jit
def kernel(
    q,
    key_text,
    value_text,
    key_bias,
    key_count,
    key_proprio,
    value_proprio,
    y,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROW: tl.constexpr,
    KEYS: tl.constexpr,
    PROPRIO_KEYS: tl.constexpr,
    SCALE: tl.constexpr,  # in base 2
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    first = tl.program_id(1) * WIDTH
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    query = load_rows(q, rows, first, 0, TOKENS, ROW, WIDTH, BLOCK_D, True)
    count = tl.minimum(tl.load(key_count), KEYS)
    scale = tl.full((BLOCK_M,), SCALE, tl.float32)
    maximum, total, sums = proprio_start(
        query, key_proprio, value_proprio, first, first, 0, scale,
        ROW, WIDTH, ROW, WIDTH, PROPRIO_KEYS, BLOCK_M, BLOCK_D, BLOCK_D, 1,
    )  # fmt: skip
    accumulator = sums[0]
    for start in range(0, count, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        scores = text_scores(query, key_text, key_bias, keys, count, first, scale, ROW, WIDTH, BLOCK_D)
        weights, correction, maximum, total = softmax_step(scores, maximum, total)
        values = load_keys(value_text, keys, count, first, 0, ROW, WIDTH, BLOCK_D)
        weights = weights.to(values.dtype)
        accumulator = tl.dot(weights, values, accumulator * correction[:, None], input_precision="ieee")
    within = tl.arange(0, BLOCK_D)
    mask = (rows < TOKENS)[:, None] & (within < WIDTH)[None, :]
    stored = (accumulator / total[:, None]).to(y.dtype.element_ty)
    tl.store(y + rows[:, None] * ROW + (first + within)[None, :], stored, mask=mask)


def task(
    tokens: int, heads: int, width: int, keys: int, proprio_keys: int, *, x: DType, y: DType, scale: float
) -> Task:
    """y [tokens, row] = softmax(scale q kᵀ + bias) v of every head, over key_count text keys and all proprio keys.

    q [tokens, row], key_text, value_text [keys, row], key_proprio, value_proprio [proprio_keys, row] in format `x`
    (row = heads * width); key_bias f32 [keys]; key_count i32 [1], at most `keys`, at least 1 without proprio keys.
    """
    row = heads * width
    check_heads("cross_attention", MAX_WIDTH, scale, width, proprio_keys, tokens=tokens, heads=heads, keys=keys)
    arguments = given(
        Argument("q", "r", x, (tokens, row)),
        Argument("key_text", "r", x, (keys, row)),
        Argument("value_text", "r", x, (keys, row)),
        Argument("key_bias", "r", "f32", (keys,)),
        Argument("key_count", "r", "i32", (1,)),
        Argument("key_proprio", "r", x, (proprio_keys, row)) if proprio_keys else None,
        Argument("value_proprio", "r", x, (proprio_keys, row)) if proprio_keys else None,
        Argument("y", "w", y, (tokens, row)),
    )
    constants = {
        "TOKENS": tokens,
        "WIDTH": width,
        "ROW": row,
        "KEYS": keys,
        "PROPRIO_KEYS": proprio_keys,
        "SCALE": scale * LOG2_E,
        "BLOCK_D": block_of(width, MAX_WIDTH),
    }
    flops = 4 * tokens * (keys + proprio_keys) * row
    return Task("cross_attention", constants, arguments, flops, matmul_format("cross_attention", x))


def tactics(task: Task, target: str) -> list[Tactic]:
    keys = task.integer("KEYS") + task.integer("PROPRIO_KEYS")
    choices = flash_choices(task.product_type, target)
    return attention_tactics(choices, task.integer("TOKENS"), min(keys, 32))


def grid(task: Task, tactic: Tactic) -> tuple[int, int, int]:
    tokens, row, width = (task.integer(name) for name in ("TOKENS", "ROW", "WIDTH"))
    return (triton.cdiv(tokens, tactic.integer("BLOCK_M")), row // width, 1)


def key_weights(task: Task, arguments: Mapping[str, Array], q: Array) -> Array:
    """softmax over the keys in use of q [tokens, heads * width]: [heads, tokens, keys]."""
    count = min(int(arguments["key_count"][0]), task.integer("KEYS"))
    width = task.integer("WIDTH")
    keys = arguments["key_text"][:count]
    bias = np.zeros(count + task.integer("PROPRIO_KEYS"))
    bias[:count] = arguments["key_bias"][:count]
    if "key_proprio" in arguments:
        keys = np.concatenate([keys, arguments["key_proprio"]])
    by_head = [x.reshape(len(x), -1, width).transpose(1, 0, 2) for x in (q, keys)]
    logits = by_head[0] @ by_head[1].transpose(0, 2, 1) * (task.real("SCALE") / LOG2_E) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    normalised: Array = weights / weights.sum(-1, keepdims=True)
    return normalised


def reference(task: Task, arguments: Mapping[str, Array]) -> dict[str, Array]:
    values = arguments["value_text"][: int(arguments["key_count"][0])]
    if "value_proprio" in arguments:
        values = np.concatenate([values, arguments["value_proprio"]])
    weights = key_weights(task, arguments, arguments["q"])
    by_head = values.reshape(len(values), len(weights), -1).transpose(1, 0, 2)
    return {"y": (weights @ by_head).transpose(1, 0, 2).reshape(arguments["q"].shape)}


def tolerance(task: Task) -> float:
    return weights_tolerance(task, 1)


def example(task: Task, generator: np.random.Generator) -> dict[str, Array]:
    """A number of keys in use, below the most. Rows of keys past it hold what is never read: infinity."""
    count = int(generator.integers(1, task.integer("KEYS") + 1))
    examples: dict[str, Array] = {"key_count": np.array([count])}
    for argument in task.arguments:
        if argument.name in ("key_text", "value_text", "output_text", "key_bias"):
            examples[argument.name] = generator.standard_normal(argument.shape)
            examples[argument.name][count:] = np.inf
    return examples


CASES = [
    task(37, 3, 24, 9, 1, x="f32", y="f32", scale=0.2),
    task(32, 2, 4, 6, 0, x="f32", y="f32", scale=0.5),
    task(20, 4, 20, 40, 3, x="f32", y="bf16", scale=0.3),
    task(64, 2, 64, 70, 1, x="f16", y="f16", scale=0.125),
    task(70, 2, 128, 33, 2, x="bf16", y="f32", scale=0.09),
    task(17, 1, 200, 16, 1, x="bf16", y="bf16", scale=0.1),
]
