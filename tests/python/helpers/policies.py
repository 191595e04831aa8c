# SPDX-License-Identifier: Apache-2.0
"""Engine files of whole policies for the stand-in driver: the golden sets with their published inputs, and nano."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers.exported import nano_policy
from helpers.golden import golden_policy
from lightwam.engine.dtypes import DType
from lightwam.engine.graph import FloatPrecision
from lightwam.export import export_engine
from lightwam.export.policy import Normalization

OTHER_ROWS = 3  # of the made-up instruction


def write_golden(name: str, precision: FloatPrecision, folder: Path, stream_dtype: DType = "f32") -> Path:
    """A golden policy that starts at latents; beside it published.npz: latents [B, Z, h, w], state [B, P], actions.

    Its instructions: "0", "1", ..., those published with each observation, and a shorter one that is made up. The
    published actions are normalised ones, so there is neither a normaliser nor a gripper rule.
    """
    golden = golden_policy(name)
    tensors = golden.tensors
    latents, context = tensors["in.latents"][:, :, 0], tensors["in.context"]
    generator = np.random.default_rng(0)
    made_up = generator.standard_normal((OTHER_ROWS, context.shape[-1])).astype(np.float32)
    path = folder / f"{name}.lwam"
    export_engine(
        golden.model, path, start_at="latents", latent_shape=golden.latent_shape, context_rows=golden.context_rows,
        instructions={**{str(i): rows for i, rows in enumerate(context)}, "made up": made_up}, precision=precision,
        stream_dtype=stream_dtype, parity_seeds=(),
    )  # fmt: skip
    published = {"latents": latents, "state": tensors["in.proprio"], "actions": tensors["out.action"]}
    np.savez(folder / "published.npz", **{key: tensor.numpy() for key, tensor in published.items()})
    return path


def write_nano(precision: FloatPrecision, folder: Path) -> Path:
    """Nano with random weights and a normaliser: from images and a sentence to robot actions."""
    model, vae, text = nano_policy()
    rng = np.random.default_rng(2)
    factors = [rng.uniform(low, 1, width) for width in (8, 7) for low in (0.5, -1)]
    path = folder / "nano.lwam"
    export_engine(
        model, path, vae=vae, text_encoder=text, normalizer=Normalization(*factors, 5.0), precision=precision,
        parity_seeds=(),
    )  # fmt: skip
    return path
