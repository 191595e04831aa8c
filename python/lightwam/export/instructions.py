# SPDX-License-Identifier: Apache-2.0
"""A policy's graph with its text encoder, and the instructions whose context rows it carries."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.engine.dtypes import Array
from lightwam.engine.graph import Constant, Graph
from lightwam.errors import ExportError
from lightwam.export.layers import constant
from lightwam.export.options import ExportOptions
from lightwam.export.policy import Normalization
from lightwam.export.policy_graph import build_graph
from lightwam.export.weights import TEXT, Weights
from lightwam.words import clean_instruction, split_words

Instructions = Mapping[str, Array | Tensor]
"""Text -> context rows [n, text width]; zero rows at the end are dropped."""


def build_policy_graph(
    config: LightWAMConfig,
    weights: Weights,
    options: ExportOptions,
    has_text_encoder: bool,
    instructions: Instructions | None = None,
    normalization: Normalization | None = None,
    trained_on: Sequence[str] | None = None,
) -> Graph:
    """The graph with its text encoder and known instructions. Raises `ExportError` if it would know no instruction.

    `trained_on`: all instructions that the text encoder saw in training; None: not known.
    """
    if not has_text_encoder and not instructions:
        raise ExportError("instructions is empty and there is no text encoder: give at least one known instruction")
    length = options.resolved_context_rows(config)
    texts = [clean_instruction(text) if isinstance(text, str) else text for text in instructions or {}]
    if len(set(texts)) < len(texts):
        raise ExportError(f"instructions are {texts}: one is given twice; give each once")
    tables = {
        text: _instruction_table(index, text, rows, length, config)
        for index, (text, rows) in enumerate((instructions or {}).items())
    }
    longest = max((len(table) for table in tables.values()), default=None)
    graph = build_graph(config, weights, options, normalization, longest)
    constants: dict[str, Constant] = {}
    policy: dict[str, Any] = {}
    if has_text_encoder:
        policy["text_encoder"] = {**_text_encoder(config, weights, length, constants), **_words(config, trained_on)}
    policy["instructions"] = [
        _instruction(text, table, index, constants) for index, (text, table) in enumerate(tables.items())
    ]
    return replace(graph, policy={**graph.policy, **policy}, constants={**graph.constants, **constants})


def _text_encoder(
    config: LightWAMConfig, weights: Weights, context_rows: int, constants: dict[str, Constant]
) -> dict[str, str]:
    """The hashed-words section of the policy; its tables stay float32."""
    text = config.text
    if text.kind != "hashed_words":
        raise ExportError(
            f"text.kind is {text.kind!r}: only 'hashed_words' runs in an engine; give instructions instead"
        )
    if context_rows != text.length:
        raise ExportError(f"context_rows is {context_rows}: with a text encoder it must be text.length = {text.length}")
    section: dict[str, str] = {"kind": text.kind}
    for part, rows in (("embedding", text.buckets), ("position", text.length)):
        name, shape = f"text_encoder.{part}", (rows, text.width)
        constants[name] = constant(name, "f32", shape, functools.partial(weights.get, TEXT + part, shape))
        section[part] = name
    return section


def _words(config: LightWAMConfig, trained_on: Sequence[str] | None) -> dict[str, list[str]]:
    """The words that the text encoder saw, those of the prompt's template among them; nothing where not known."""
    if not trained_on:
        return {}
    prompts = (config.text.prompt_template.replace("{task}", text) for text in trained_on)
    return {"words": sorted({word for prompt in prompts for word in split_words(prompt)})}


def _instruction_table(index: int, text: str, rows: Array | Tensor, length: int, config: LightWAMConfig) -> Tensor:
    """Context rows [n, text width] of a known instruction up to the last one that is not zero, n in 1..length."""
    if isinstance(rows, np.ma.MaskedArray):
        raise ExportError(f"context of {text!r} is a masked array: give plain rows")
    table, width = torch.as_tensor(rows).detach().to("cpu", torch.float64), config.text.width
    if not isinstance(text, str) or not clean_instruction(text):
        raise ExportError(f"instruction {index} is {text!r}: give its text")
    if table.ndim != 2 or table.shape[1] != width or not bool(torch.isfinite(table).all()):
        raise ExportError(f"context of {text!r} has shape {list(table.shape)}: give finite rows [n, {width}]")
    filled = np.flatnonzero(table.abs().sum(1).numpy())
    count = int(filled[-1]) + 1 if len(filled) else 0
    if not 0 < count <= length:
        raise ExportError(f"context of {text!r} has {count} rows that are not zero: give 1..{length}")
    return table[:count]


def _instruction(text: str, table: Tensor, index: int, constants: dict[str, Constant]) -> dict[str, str]:
    """A known instruction's entry; its rows are stored as float32."""
    name = f"instructions.{index}.context"
    constants[name] = constant(name, "f32", tuple(table.shape), lambda: table)
    return {"text": text, "context": name}
