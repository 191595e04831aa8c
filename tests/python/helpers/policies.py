# SPDX-License-Identifier: Apache-2.0
"""Engine files of whole policies for the stand-in driver: the golden sets with their published inputs, and nano."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from helpers.robots import without_gripper
from lightwam.config import LightWAMConfig
from lightwam.engine.dtypes import DType
from lightwam.engine.file import read_engine, write_engine
from lightwam.engine.graph import FloatPrecision
from lightwam.export import export_engine
from lightwam.export.policy import Normalization
from lightwam.export.weights import RandomWeights
from lightwam.model import LightWAM
from lightwam.model.text import HashedWordsEncoder
from lightwam.model.vae import WanVAE
from lightwam.quantize.layers import find_layers, quantize_graph

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
GROUPS = ("mot", "state_fusion_action_expert", "proprio_encoder")
OTHER_ROWS = 3  # of the made-up instruction


def write_golden(name: str, precision: FloatPrecision, folder: Path, stream_dtype: DType = "f32") -> Path:
    """A golden policy that starts at latents; beside it published.npz: latents [B, Z, h, w], state [B, P], actions.

    Its instructions: "0", "1", ..., those published with each observation, and a shorter one that is made up. The
    published actions are normalised ones, so there is no gripper rule.
    """
    mapping = json.loads((GOLDEN / f"{name}.json").read_text())
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    config = without_gripper(LightWAMConfig.from_published(mapping))
    model = LightWAM(config)
    model.load_published({key: tensor for key, tensor in tensors.items() if key.startswith(GROUPS)})
    latents, context = tensors["in.latents"][:, :, 0], tensors["in.context"]
    generator = np.random.default_rng(0)
    made_up = generator.standard_normal((OTHER_ROWS, context.shape[-1])).astype(np.float32)
    _, channels, height, width = latents.shape
    path = folder / f"{name}.lwam"
    export_engine(
        model, path, start_at="latents", latent_shape=(channels, height, width), context_rows=context.shape[1],
        instructions={**{str(i): rows for i, rows in enumerate(context)}, "made up": made_up}, precision=precision,
        stream_dtype=stream_dtype, parity_seeds=(),
    )  # fmt: skip
    published = {"latents": latents, "state": tensors["in.proprio"], "actions": tensors["out.action"]}
    np.savez(folder / "published.npz", **{key: tensor.numpy() for key, tensor in published.items()})
    return path


def write_nano(precision: FloatPrecision, folder: Path) -> Path:
    """Nano with random weights and a normaliser: from images and a sentence to robot actions."""
    config = LightWAMConfig.nano()
    parts = (LightWAM(config), WanVAE(config.vae), HashedWordsEncoder(config.text))
    weights = RandomWeights(1)
    with torch.no_grad():
        for prefix, module in zip(("", "vae.", "text_encoder."), parts, strict=True):
            for name, parameter in module.state_dict().items():
                parameter.copy_(weights.get(prefix + name, tuple(parameter.shape)))
    model, vae, text = parts
    rng = np.random.default_rng(2)
    factors = [rng.uniform(low, 1, width) for width in (8, 7) for low in (0.5, -1)]
    path = folder / "nano.lwam"
    export_engine(
        model, path, vae=vae, text_encoder=text, normalizer=Normalization(*factors, 5.0), precision=precision,
        parity_seeds=(),
    )  # fmt: skip
    return path


def quantized(source: Path, min_weights: int = 1) -> Path:
    """NAME-int8.lwam beside a float engine file: its linears in eight bits, the rest as it was."""
    graph, path = read_engine(source), source.with_name(f"{source.stem}-int8.lwam")
    write_engine(quantize_graph(graph, find_layers(graph, min_weights)), path)
    return path
