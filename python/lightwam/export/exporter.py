# SPDX-License-Identifier: Apache-2.0
"""`export_engine`: a model in memory -> one engine file, with the parity that the export itself measured."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightwam.arithmetic import default_arithmetic
from lightwam.config import LightWAMConfig
from lightwam.engine.costs import counted_text_rows, graph_costs
from lightwam.engine.file import check_engine_output, write_engine
from lightwam.engine.graph import Graph
from lightwam.errors import DataError, ExportError
from lightwam.export.instructions import Instructions, build_policy_graph
from lightwam.export.options import ExportOptions
from lightwam.export.parity import Parity, measure_parity
from lightwam.export.policy import Normalization
from lightwam.export.weights import StateDictWeights
from lightwam.export.widen import computing_in_float32
from lightwam.progress import progress_bar

if TYPE_CHECKING:
    from lightwam.model import LightWAM
    from lightwam.model.text import HashedWordsEncoder
    from lightwam.model.vae import WanVAE


@dataclass(frozen=True)
class ExportReport:
    """What was written: the file, its size, the matmuls of one chunk (for the longest known instruction, 32 text rows
    where none is known), and the measured parity (None if it was not measured).
    """

    path: str
    num_bytes: int
    gflop: float
    parity: Parity | None


@default_arithmetic
def export_engine(
    model: LightWAM,
    path: str | os.PathLike[str],
    options: ExportOptions | None = None,
    *,
    vae: WanVAE | None = None,
    text_encoder: HashedWordsEncoder | None = None,
    instructions: Instructions | None = None,
    normalizer: Normalization | Mapping[str, Any] | None = None,
    show_progress: bool = False,
    **fields: Any,
) -> ExportReport:
    """Fold a policy and write its engine file.

    Args:
        model: the policy; its weights are read in float64, whatever their type.
        path: the file to write (`*.lwam`); it appears only when it is whole.
        options: see `ExportOptions`.
        vae: the video autoencoder; needed to start at images.
        text_encoder: the small encoder that the runtime runs for any instruction.
        instructions: text -> context rows [n, text width] (zero rows at the end are dropped): the known instructions.
        normalizer: statistics (the content of stats.json, its `instructions` included) or ready vectors; None: states
            (clamped all the same) and actions stay normalised, the gripper's too.
        show_progress: draw progress bars.
        fields: fields of `ExportOptions` by name, which replace those of `options`.

    Raises:
        ExportError: an option that is not folded, weights that do not fit (f16 among others), or parity out of its
            limit (1e-4 relative with float32 weights, else cosine 0.9995).
    """
    check_engine_output(path)
    options = replace(options or ExportOptions(), **fields)
    if options.start_at == "images" and vae is None:
        raise ExportError("vae is None: an engine that starts at images needs the VAE, or start_at='latents'")
    config = model.config
    trained_on = trained_instructions(normalizer)
    folded = config if vae is None else replace(config, vae=vae.config)
    if isinstance(normalizer, Mapping):
        normalizer = Normalization.from_statistics(config, normalizer)
    weights = StateDictWeights(_state_dict(model, vae, text_encoder))
    graph = build_policy_graph(folded, weights, options, text_encoder is not None, instructions, normalizer, trained_on)
    parity = None
    if options.parity_seeds:
        units = normalizer or Normalization.identity(config)
        bar = progress_bar("measuring parity", len(options.parity_seeds), show_progress)
        with bar as advance, computing_in_float32(model, vae):
            parity = measure_parity(graph, model, vae and vae.encode, units, options, advance)
    return write_policy(graph, config, path, options.provenance, parity, show_progress)


def trained_instructions(statistics: object) -> tuple[str, ...] | None:
    """The instructions that a statistics file's content lists; None where it lists none.

    Raises `DataError` for a list that holds something other than texts.
    """
    listed = statistics.get("instructions") if isinstance(statistics, Mapping) else None
    if listed is None:
        return None
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        raise DataError(f"statistics: instructions is {listed!r}: give a list of texts, or leave it out")
    return tuple(listed)


def _state_dict(model: LightWAM, vae: WanVAE | None, text_encoder: HashedWordsEncoder | None) -> dict[str, Tensor]:
    """All weights under the names of a checkpoint folder."""
    parts = (("", model), ("vae.", vae), ("text_encoder.", text_encoder))
    return {
        prefix + name: tensor
        for prefix, module in parts
        if module is not None
        for name, tensor in module.state_dict().items()
    }


@default_arithmetic
def write_policy(
    graph: Graph,
    config: LightWAMConfig,
    path: str | os.PathLike[str],
    provenance: Mapping[str, Any] | None = None,
    parity: Parity | None = None,
    show_progress: bool = False,
) -> ExportReport:
    """Write a policy's graph with versions, configuration, costs and parity in its provenance."""
    check_engine_output(path)
    try:
        json.dumps(dict(provenance or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(f"provenance cannot be stored ({error}): give strings and finite numbers") from None
    text_rows = counted_text_rows(graph)
    costs = graph_costs(graph, text_rows)
    gflop = costs.flops / 1e9
    known = {
        "lightwam": _version(),
        "torch": torch.__version__,
        "config": config.to_dict(),
        "gflop": gflop,
        "gflop_text_rows": text_rows,
        "weight_bytes": costs.constant_bytes,
        "parity": None if parity is None else parity.to_json(),
    }
    with progress_bar("writing", graph.constant_bytes(), show_progress) as advance:
        made = replace(graph, provenance=known | dict(provenance or {}))
        size = write_engine(made, path, advance, read_back=True)
    return ExportReport(os.fspath(path), size, gflop, parity)


def _version() -> str:
    try:
        return metadata.version("lightwam")
    except metadata.PackageNotFoundError:
        return "source tree"
