# SPDX-License-Identifier: Apache-2.0
"""`export_engine`: a model in memory -> one engine file, with the parity that the export itself measured."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lightwam.config import LightWAMConfig
from lightwam.engine.costs import counted_text_rows, graph_costs
from lightwam.engine.dtypes import Array, DType
from lightwam.engine.file import write_engine
from lightwam.engine.graph import Constant, FloatPrecision, Graph
from lightwam.errors import ExportError
from lightwam.export.build import BuildOptions, build_graph, with_policy
from lightwam.export.layers import constant
from lightwam.export.parity import Parity, measure_parity
from lightwam.export.policy import CrossOutput, Normalization, StartAt
from lightwam.export.weights import TEXT, StateDictWeights, Weights
from lightwam.export.widen import computing_in_float32
from lightwam.progress import progress_bar

if TYPE_CHECKING:
    from lightwam.model import LightWAM
    from lightwam.model.text import HashedWordsEncoder
    from lightwam.model.vae import WanVAE

PARITY_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class ExportReport:
    """What was written: the file, its size, the products of one chunk (for the longest known instruction, 32 text rows
    where none is known), and the measured parity (None if not asked).
    """

    path: str
    num_bytes: int
    gflop: float
    parity: Parity | None


def export_engine(
    model: LightWAM,
    path: str | os.PathLike[str],
    *,
    vae: WanVAE | None = None,
    text_encoder: HashedWordsEncoder | None = None,
    instructions: Mapping[str, Array | Tensor] | None = None,
    normalizer: Normalization | Mapping[str, Any] | None = None,
    precision: FloatPrecision = "f32",
    weight_dtype: DType | None = None,
    stream_dtype: DType = "f32",
    start_at: StartAt = "images",
    latent_shape: tuple[int, int, int] | None = None,
    context_rows: int | None = None,
    context_mask: Iterable[bool] | None = None,
    control_hz: float | None = None,
    name: str | None = None,
    cross_output: CrossOutput = "auto",
    provenance: Mapping[str, Any] | None = None,
    parity_seeds: Sequence[int] = PARITY_SEEDS,
    show_progress: bool = False,
) -> ExportReport:
    """Fold a policy and write its engine file.

    Args:
        model: the policy; its weights are read in float64, whatever their type.
        path: the file to write (`*.lwam`); it appears only when it is whole.
        vae: the video autoencoder; needed to start at images.
        text_encoder: the small encoder that the runtime runs for any instruction.
        instructions: text -> context rows [n, text width] (zero rows at the end are dropped): the known instructions.
        normalizer: statistics (the content of stats.json) or ready vectors; None: states (clamped all the same) and
            actions stay normalised, the gripper's too.
        precision: what the matrix products compute in, 'f32', 'bf16' or 'f16'.
        weight_dtype: 'bf16' stores an f32 engine's weights in half the bytes; the runtime widens them.
        stream_dtype: 'f16' halves the bytes of the backbone's token stream on a GPU, for bf16 and f16 engines; the
            stream must stay below 65,504 (docs/reference/export.md).
        start_at: 'images', or 'latents' for callers that encode images themselves.
        latent_shape: [Z, h, w] when it is not that of the configured cameras.
        context_rows: L when it is not the configured length.
        context_mask: [L] or [B, L]; refused unless all True: an engine attends to all context rows.
        control_hz: control steps a second, told to users of the engine; None: the robot's.
        name: the policy's name; default the configuration's.
        cross_output: 'folded' makes value and output projection of every cross-attention key one vector (saving 13),
            'projected' keeps the projection, 'auto' takes what is faster for the longest known instruction.
        provenance: further JSON entries to store.
        parity_seeds: seeds of the random inputs on which folded graph and model are compared; empty: not measured.
        show_progress: draw progress bars.

    Raises:
        ExportError: an option that is not folded, weights that do not fit (f16 among others), or parity out of its
            limit (1e-4 relative with float32 weights, else cosine 0.9995).
    """
    if start_at == "images" and vae is None:
        raise ExportError("vae is None: an engine that starts at images needs the VAE, or start_at='latents'")
    config = model.config
    normalization = _normalization(config, normalizer)
    options = BuildOptions(
        precision, weight_dtype, stream_dtype, start_at, latent_shape, context_rows, normalization, control_hz, name,
        cross_output,
    )  # fmt: skip
    weights = StateDictWeights(_state_dict(model, vae, text_encoder))
    graph = build_policy_graph(
        config, weights, options, text_encoder is not None, instructions, context_mask, vae and vae.config
    )
    parity = None
    if parity_seeds:
        exact = precision == "f32" and weight_dtype in (None, "f32")
        units = normalization or Normalization.identity(config)
        bar = progress_bar("measuring parity", len(parity_seeds), show_progress)
        with bar as advance, computing_in_float32(model, vae):
            parity = measure_parity(graph, model, vae and vae.encode, units, parity_seeds, exact, advance)
    graph = with_provenance(graph, config, parity, provenance)
    with progress_bar("writing", graph.constant_bytes(), show_progress) as advance:
        size = write_engine(graph, path, advance)
    return ExportReport(os.fspath(path), size, graph.provenance["gflop"], parity)


def _normalization(
    config: LightWAMConfig, normalizer: Normalization | Mapping[str, Any] | None
) -> Normalization | None:
    if normalizer is None or isinstance(normalizer, Normalization):
        return normalizer
    return Normalization.from_statistics(config, normalizer)


def _state_dict(model: LightWAM, vae: WanVAE | None, text_encoder: HashedWordsEncoder | None) -> dict[str, Tensor]:
    """All weights under the names of a checkpoint folder."""
    parts = (("", model), ("vae.", vae), ("text_encoder.", text_encoder))
    return {
        prefix + name: tensor
        for prefix, module in parts
        if module is not None
        for name, tensor in module.state_dict().items()
    }


def build_policy_graph(
    config: LightWAMConfig,
    weights: Weights,
    options: BuildOptions,
    has_text_encoder: bool,
    instructions: Mapping[str, Array | Tensor] | None = None,
    context_mask: Iterable[bool] | None = None,
    vae_config: Any = None,
) -> Graph:
    """The graph with its text encoder and known instructions. Raises `ExportError` if it would know no instruction."""
    if not has_text_encoder and not instructions:
        raise ExportError("instructions is empty and there is no text encoder: give at least one known instruction")
    if vae_config is not None:
        config = replace(config, vae=vae_config)
    length = options.resolved_context_rows(config)
    texts = [text.strip() if isinstance(text, str) else text for text in instructions or {}]
    if len(set(texts)) < len(texts):
        raise ExportError(f"instructions are {texts}: one is given twice; give each once")
    tables = {
        text: _instruction_table(index, text, rows, length, config)
        for index, (text, rows) in enumerate((instructions or {}).items())
    }
    if tables and options.text_rows is None:
        options = replace(options, text_rows=max(len(table) for table in tables.values()))
    graph = build_graph(config, weights, options, context_mask)
    constants: dict[str, Constant] = {}
    policy: dict[str, Any] = {}
    if has_text_encoder:
        policy["text_encoder"] = _text_encoder(config, weights, int(graph.policy["context_rows"]), constants)
    policy["instructions"] = [
        _instruction(text, table, index, constants) for index, (text, table) in enumerate(tables.items())
    ]
    return with_policy(graph, constants, **policy)


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
        shape = (rows, text.width)
        name = f"text_encoder.{part}"
        constants[name] = constant(name, "f32", shape, _loader(weights, TEXT + part, shape))
        section[part] = name
    return section


def _loader(weights: Weights, name: str, shape: tuple[int, ...]) -> Callable[[], Tensor]:
    return lambda: weights.get(name, shape)


def _instruction_table(index: int, text: str, rows: Array | Tensor, length: int, config: LightWAMConfig) -> Tensor:
    """Context rows [n, text width] of a known instruction up to the last one that is not zero, n in 1..length."""
    table, width = torch.as_tensor(rows).detach().to("cpu", torch.float64), config.text.width
    if not isinstance(text, str) or not text.strip():
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


def with_provenance(
    graph: Graph, config: LightWAMConfig, parity: Parity | None, extra: Mapping[str, Any] | None
) -> Graph:
    """The graph with versions, configuration, costs and parity in its provenance."""
    try:
        json.dumps(dict(extra or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(f"provenance cannot be stored ({error}): give strings and finite numbers") from None
    text_rows = counted_text_rows(graph)
    costs = graph_costs(graph, text_rows)
    provenance = {
        "lightwam": _version(),
        "torch": torch.__version__,
        "config": config.to_dict(),
        "gflop": costs.flops / 1e9,
        "gflop_text_rows": text_rows,
        "weight_bytes": costs.constant_bytes,
        "parity": None if parity is None else parity.to_json(),
        **(extra or {}),
    }
    return replace(graph, provenance=provenance)


def _version() -> str:
    try:
        return metadata.version("lightwam")
    except metadata.PackageNotFoundError:
        return "source tree"
