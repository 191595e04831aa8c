# SPDX-License-Identifier: Apache-2.0
"""The folded graph beside the published numbers, and the random nano policy beside PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.exported import nano_policy
from helpers.golden import GoldenPolicy, random_model
from lightwam.config import LightWAMConfig
from lightwam.engine.dtypes import DType
from lightwam.engine.file import read_engine
from lightwam.engine.interpret import Interpreter
from lightwam.export import export_engine
from lightwam.export.options import ExportOptions
from lightwam.export.parity import CHUNK
from lightwam.export.policy_graph import build_graph
from lightwam.export.weights import StateDictWeights

FORMS = pytest.mark.parametrize("cross_output", ["folded", "projected"])  # with and without saving 13

# Values of the graph and the golden stages they must equal; tokens behind an adapter are `adapted`.
_STAGES = {
    "golden_set1": {
        "tokens": "out.tokens", "blocks.0.ffn.2": "out.block.0", "blocks.1.ffn.2": "out.block.1",
        "adapters.1.up": "out.adapted.1", "adapters.4.up": "out.adapted.4",
        "expert.layer_poolers.0.adapted.output_norm": "out.pooled.0",
        "expert.layer_compressors.2.fc2": "out.compressed.2",
        "expert.fused_proj": "out.fused_proj", "expert.trunk.0.fc2": "out.trunk.0", CHUNK: "out.action",
    },
    "golden_set3": {
        "tokens": "out.tokens", "blocks.2.ffn.2": "out.block.2", "adapters.2.up": "out.adapter_delta.2",
        "adapters.5.up": "out.adapted.5", "expert.pooled.0": "out.pooled.0", "expert.pool.1.adapted": "out.pooled.1",
        "expert.fused_proj": "out.fused_proj", CHUNK: "out.action",
    },
}  # fmt: skip


def _options(golden: GoldenPolicy, precision: str, cross_output: str, stream_dtype: DType = "f32") -> ExportOptions:
    return ExportOptions(
        stream_dtype=stream_dtype,
        precision=precision,  # type: ignore[arg-type]
        cross_output=cross_output,  # type: ignore[arg-type]
        start_at="latents",
        latent_shape=golden.latent_shape,
        context_rows=golden.context_rows,
    )


def _interpreter(golden: GoldenPolicy, precision: str, cross_output: str, stream_dtype: DType = "f32") -> Interpreter:
    options = _options(golden, precision, cross_output, stream_dtype)
    graph = build_graph(golden.model.config, StateDictWeights(golden.model.state_dict()), options)
    return Interpreter(graph, keep_trace=True)


def _trace(golden: GoldenPolicy, interpreter: Interpreter, index: int = 0) -> dict[str, torch.Tensor]:
    interpreter.set_instruction(golden.tensors["in.context"][index].numpy())
    interpreter.act(golden.tensors["in.proprio"][index].numpy(), golden.tensors["in.latents"][index, :, 0].numpy())
    return interpreter.trace


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double().flatten() - b.double().flatten()).abs().max() / b.abs().max())


@FORMS
def test_every_stage_equals_the_published_numbers(golden: GoldenPolicy, cross_output: str) -> None:
    interpreter = _interpreter(golden, "f32", cross_output)
    for index in range(golden.tensors["in.latents"].shape[0]):
        trace = _trace(golden, interpreter, index)
        errors = {
            value: _relative(trace[value], golden.tensors[stage][index])
            for value, stage in _STAGES[golden.name].items()
        }
        assert max(errors.values()) < 1e-5, errors


@FORMS
def test_bf16_graph_stays_within_its_cosine(golden: GoldenPolicy, cross_output: str) -> None:
    made = _trace(golden, _interpreter(golden, "bf16", cross_output))[CHUNK].flatten()
    wanted = golden.tensors["out.action"][0].double().flatten()
    assert torch.cosine_similarity(made, wanted, 0) > 0.9995


@FORMS
def test_residual_streams_in_f16(golden: GoldenPolicy, cross_output: str) -> None:
    """Every sum of the backbone's stream is f16, the expert's none; the answer stays as near as bf16 matmuls allow."""
    interpreter = _interpreter(golden, "bf16", cross_output, "f16")
    graph = interpreter.graph
    sums = {op.name: graph.programs["act"].values[op.outputs["y"]] for op in graph.programs["act"].ops
            if "residual" in op.inputs or op.name.endswith(".adapted")}  # fmt: skip
    assert len(sums) > 3
    assert {value.type.dtype for name, value in sums.items() if not name.startswith("expert.")} == {"f16"}
    assert {value.type.dtype for name, value in sums.items() if name.startswith("expert.")} == {"f32"}
    made, wanted = _trace(golden, interpreter)[CHUNK].flatten(), golden.tensors["out.action"][0].double().flatten()
    assert torch.cosine_similarity(made, wanted, 0) > 0.9995


@pytest.mark.parametrize(("precision", "weight_dtype"), [("f32", None), ("f32", "bf16"), ("bf16", None)])
def test_nano_from_images_measures_its_parity(tmp_path: Path, precision: str, weight_dtype: str | None) -> None:
    model, vae, text = nano_policy()
    path = tmp_path / "nano.lwam"
    report = export_engine(
        model, path, vae=vae, text_encoder=text, precision=precision, weight_dtype=weight_dtype, parity_seeds=(5,)
    )  # type: ignore[call-overload]
    assert report.parity is not None
    assert report.num_bytes == path.stat().st_size <= 24e6
    assert report.parity.cosine > 0.9995
    if weight_dtype is None and precision == "f32":
        assert report.parity.relative_error < 1e-5
    assert read_engine(path).provenance["parity"]["seeds"] == [5]


def test_short_text_equals_padded_text_in_the_model() -> None:
    """Saving 7 in the whole graph: the interpreter sees 3 rows, the model sees 24, 21 of them zero."""
    config = LightWAMConfig.nano()
    model = random_model(config)
    graph = build_graph(config, StateDictWeights(model.state_dict()), ExportOptions(start_at="latents"))
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3, 64)).astype(np.float32)
    latents = rng.standard_normal((16, 16, 32)).astype(np.float32)
    interpreter = Interpreter(graph, keep_trace=True)
    interpreter.set_instruction(rows)
    interpreter.act(np.zeros(8), latents)
    context = torch.zeros(1, 24, 64)
    context[0, :3] = torch.tensor(rows)
    with torch.no_grad():
        wanted = model.predict_actions(torch.tensor(latents)[None, :, None], context, None, torch.zeros(1, 8))
    assert _relative(interpreter.trace[CHUNK], wanted) < 1e-5
